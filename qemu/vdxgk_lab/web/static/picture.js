// The live picture: noVNC, which comes back when the adapter does.

import RFB from "./novnc/core/rfb.js";

const AGAIN = 1000;

/** The screen in `place`; calls `changed(text)` with what to say instead of a picture, or "". */
export class Picture {
  #rfb = null;
  #timer;
  #wanted = false;
  #fit = true;

  constructor(place, changed) {
    this.place = place;
    this.changed = changed;
    // In the capture phase, or the guest would get it.
    window.addEventListener("keydown", (event) => this.#release(event), true);
  }

  /** Whether there should be a connection. */
  want(wanted) {
    if (wanted === this.#wanted) {
      return;
    }
    this.#wanted = wanted;
    clearTimeout(this.#timer);
    if (wanted) {
      this.#connect();
    } else {
      this.#rfb?.disconnect();
    }
  }

  get fit() {
    return this.#fit;
  }

  set fit(fit) {
    this.#fit = fit;
    if (this.#rfb) {
      this.#rfb.scaleViewport = fit;
    }
  }

  get canvas() {
    return this.place.querySelector("canvas");
  }

  /** Keys go to the guest now. */
  focus() {
    this.#rfb?.focus();
  }

  #connect() {
    const url = new URL("vnc", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const rfb = new RFB(this.place, url.href, { shared: true });
    this.#rfb = rfb;
    rfb.scaleViewport = this.#fit;
    rfb.showDotCursor = true; // a guest without a pointer of its own
    rfb.background = "transparent";
    rfb.addEventListener("connect", () => {
      if (rfb === this.#rfb) {
        this.changed("");
      }
    });
    rfb.addEventListener("disconnect", () => {
      if (rfb !== this.#rfb) {
        return;
      }
      this.#rfb = null;
      this.changed("no picture");
      if (this.#wanted) {
        this.#timer = setTimeout(() => this.#connect(), AGAIN);
      }
    });
  }

  #release(event) {
    const inside = this.place.contains(document.activeElement);
    if (!(inside && event.ctrlKey && event.altKey && event.code === "KeyG")) {
      return;
    }
    event.stopImmediatePropagation();
    event.preventDefault();
    this.#rfb?.blur();
    // noVNC lets go of the keys that are down, Ctrl and Alt, when the window loses the focus.
    window.dispatchEvent(new Event("blur"));
    document.getElementById("type").focus();
  }
}
