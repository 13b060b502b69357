/** An element with attributes (text, class and others) and children. */
export function element(tag, { text, ...attributes } = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) {
      made.setAttribute(name, value);
    }
  }
  if (text !== undefined) {
    made.textContent = text;
  }
  made.append(...children);
  return made;
}

/** Change a text only if it differs: a selection in it stays. */
export function setText(node, text) {
  if (node.textContent !== text) {
    node.textContent = text;
  }
}

/** The colour of an object, the same wherever it is shown. */
export function paint(node, number) {
  node.style.setProperty("--hue", String((number * 137.508 + 200) % 360));
  return node;
}
