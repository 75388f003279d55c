// The jobs so far, page by page.

import * as api from "./api.js";
import { h, table } from "./dom.js";
import { ago, fileName, stateName } from "./format.js";

const STATES = ["", "uploading", "queued", "running", "playable", "completed", "failed", "cancelled"];

/** A list of jobs; `open(id)` shows one. */
export const history = (signal, open) => {
  const filter = h("select", { id: "filter" }, STATES.map((state) => h("option", { value: state }, stateName(state) || "all")));
  const list = h("div");
  const more = h("button", { type: "button", hidden: true }, "Older ones");
  const box = h("section", {},
    h("div", { class: "row apart" }, h("h2", {}, "History"),
      h("span", { class: "row" }, h("label", { for: "filter" }, "Show"), filter)),
    list, more);
  let jobs = [];
  let cursor;

  const row = (job) => [
    h("button", { type: "button", onclick: () => open(job.jobId) }, "Open"),
    fileName(job) ?? "",
    h("span", { class: `state ${job.status}` }, stateName(job.status)),
    job.preset,
    ago(job.timestamps.createdAt),
  ];
  const draw = () => list.replaceChildren(jobs.length > 0
    ? table("Jobs", [{ name: "" }, "Video", "State", "Preset", "Asked for"].map((head) => head.name === "" ? { name: h("span", { class: "hidden" }, "Open") } : head), jobs.map(row))
    : h("p", { class: "quiet" }, "No videos yet. A video that you send is listed here until a week after its job has ended."));
  const load = async (next) => {
    try {
      const page = await api.listJobs({ limit: 10, status: filter.value, cursor: next ?? "" });
      jobs = next ? [...jobs, ...page.jobs] : page.jobs;
      cursor = page.nextCursor;
      more.hidden = !cursor;
      draw();
    } catch (error) {
      if (!signal.aborted) list.replaceChildren(h("p", { class: "problem" }, error.message));
    }
  };
  filter.addEventListener("change", () => load());
  more.addEventListener("click", () => load(cursor));
  load();
  return { box, refresh: () => load() };
};
