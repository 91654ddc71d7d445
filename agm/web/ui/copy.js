// Copying a text, by a button that says whether it was.

import { el } from "./dom.js";

/** Copy a text; also where the page is not a secure context, and has no clipboard of its own. */
async function copy(text, beside) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const area = el("textarea", { class: "unseen", "aria-hidden": "true" });
  area.value = text;
  beside.after(area); // within a dialog, if the button is in one: what is outside cannot be selected meanwhile
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (!done) throw new Error("the browser does not let this page copy");
}

/** A button that copies what `text()` gives; `what` names it to who does not see it. */
export function copier(text, what) {
  const button = el("button", { type: "button", class: "quiet copy", "aria-label": `Copy: ${what}` }, "copy");
  let back = 0;
  button.addEventListener("click", async () => {
    try {
      await copy(text(), button);
      button.textContent = "copied";
    } catch {
      button.textContent = "not copied";
    }
    clearTimeout(back);
    back = setTimeout(() => (button.textContent = "copy"), 2000);
  });
  return button;
}
