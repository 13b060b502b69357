// Puts the page together.

import { setText } from "./dom.js";
import { plural } from "./format.js";
import { showMap } from "./map.js";
import { showCounters, showFacts, showFaults, showObjects } from "./panels.js";
import { Picture } from "./picture.js";
import { Status } from "./status.js";

const byId = (id) => document.getElementById(id);

const picture = new Picture(byId("screen"), (text) => veil(text));

const status = new Status(show, () => {
  tell("lost", "server gone");
  veil("The page's server is gone. Is vdxgk still running?");
  picture.want(false);
});

function show(state) {
  showFacts(state);
  const { adapter } = state;
  setText(byId("typing"), state.typing ? "" : "input is not connected: vdxgk web --qmp");
  if (!adapter) {
    tell("lost", "adapter gone");
    veil(`The adapter is gone: ${state.gone}. The page waits for it.`);
    picture.want(false);
    return;
  }
  tell(adapter.connected ? "live" : "waiting", adapter.connected ? "live" : "waiting for QEMU");
  const { display } = adapter;
  setText(byId("mode"), display.blank ? "blank" : `${display.mode.replace("x", "\u00d7")} ${display.format.toUpperCase()}`);
  showCounters(adapter);
  showObjects(adapter);
  showFaults(adapter.faults);
  showMap(adapter);
  if (adapter.vnc) {
    picture.want(true);
  } else {
    veil("The adapter serves no viewers: start it with --vnc PATH.");
  }
  const faults = adapter.faults.count ? `, ${plural(adapter.faults.count, "fault")}` : "";
  document.title = `vdxgk: ${plural(adapter.object_count, "object")}${faults}`;
}

function tell(state, text) {
  const pill = byId("state");
  pill.dataset.state = state;
  document.body.dataset.state = state;
  setText(pill, text);
}

function veil(text) {
  setText(byId("veil"), text);
  byId("veil").hidden = !text;
}

// A page that nobody sees costs the adapter nothing.
document.addEventListener("visibilitychange", () => {
  status.pause(document.hidden);
  if (document.hidden) {
    picture.want(false);
  }
});

byId("type").addEventListener("click", () => picture.focus());

byId("fit").addEventListener("click", () => {
  picture.fit = !picture.fit;
  byId("fit").setAttribute("aria-pressed", String(picture.fit));
});

byId("full").addEventListener("click", () => byId("screen").requestFullscreen());

byId("save").addEventListener("click", () => {
  picture.canvas?.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = "vdxgk.png";
    link.click();
    URL.revokeObjectURL(link.href);
  });
});

// An object is found again in the map, and the other way round.
document.addEventListener("pointerover", (event) => {
  const found = event.target.closest?.("[data-object]")?.dataset.object;
  for (const node of document.querySelectorAll("[data-object]")) {
    node.classList.toggle("pointed", found !== undefined && BigInt(node.dataset.object) === BigInt(found));
  }
});
