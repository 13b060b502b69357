// What the adapter holds: JSON Merge Patches (RFC 7386) from a WebSocket that comes back.

const AGAIN = 1000;

/** Apply a patch; what it does not name stays the same object. */
export function merge(target, patch) {
  if (patch === null || typeof patch !== "object" || Array.isArray(patch)) {
    return patch;
  }
  const merged = target && typeof target === "object" && !Array.isArray(target) ? { ...target } : {};
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) {
      delete merged[key];
    } else {
      merged[key] = merge(merged[key], value);
    }
  }
  return merged;
}

/** Calls `show(state)` at each change, `lost()` when the server is gone. Nothing while paused. */
export class Status {
  #socket;
  #timer;
  #paused = false;

  constructor(show, lost) {
    this.show = show;
    this.lost = lost;
    this.#connect();
  }

  pause(paused) {
    this.#paused = paused;
    clearTimeout(this.#timer);
    if (paused) {
      this.#socket.close();
    } else {
      this.#connect();
    }
  }

  #connect() {
    const url = new URL("status", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new WebSocket(url);
    this.#socket = socket;
    let state;
    socket.addEventListener("message", (event) => {
      state = merge(state, JSON.parse(event.data));
      this.show(state);
    });
    socket.addEventListener("close", () => {
      if (socket === this.#socket && !this.#paused) {
        this.lost();
        this.#timer = setTimeout(() => this.#connect(), AGAIN);
      }
    });
  }
}
