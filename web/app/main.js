// Which view is shown. Each gets a signal that ends with it.

import { operate } from "./operate.js";
import { transcode } from "./transcode.js";

const views = { transcode: { start: transcode, title: "tcoder: videos" }, operate: { start: operate, title: "tcoder: operation" } };
const main = document.getElementById("main");
let shown;

const go = (focus) => {
  const name = location.hash === "#/operate" ? "operate" : "transcode";
  shown?.abort();
  shown = new AbortController();
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = views[name].title;
  views[name].start(main, shown.signal);
  if (focus) main.focus();
};

window.addEventListener("hashchange", () => go(true));
go(false);
