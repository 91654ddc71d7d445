// Light or dark, before anything is painted; the rest of the page is a module and comes later.
"use strict";
try {
  const wanted = localStorage.getItem("agm-theme");
  if (wanted === "light" || wanted === "dark") document.documentElement.dataset.theme = wanted;
} catch {
  // storage is switched off: the system's choice it is
}
