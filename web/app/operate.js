// The second view, for whoever runs it: the queue, the machines, what failed, what it costs.

import * as api from "./api.js";
import { h, table, wide } from "./dom.js";
import { ago, dollars, duration } from "./format.js";
import { fleetChart, machineStrips } from "./pictures.js";

const PAUSE = 2000;
/** So far back goes the chart, seconds. */
const SPAN = 600;

const figures = (pairs) => h("dl", { class: "figures" }, pairs.map(([term, value]) =>
  h("div", {}, h("dt", {}, term), h("dd", {}, value))));

const isUp = (machine) => ["started", "starting", "stopping"].includes(machine.state) || ["busy", "idle", "booting"].includes(machine.role);

export const operate = (main, signal) => {
  const [queue, chart, machines, running, failures] = [h("div"), h("div"), h("div"), h("div"), h("div")];
  const [notes, said] = [h("div"), h("div", { role: "alert" })];
  const control = h("button", { type: "button", disabled: true }, "Pause the fleet");
  main.replaceChildren(
    h("h1", {}, "How the installation is doing"), said,
    h("section", {}, h("h2", {}, "The queue"), queue),
    h("section", {}, h("div", { class: "row apart" }, h("h2", {}, "The machines"), control), notes, chart,
      h("p", { class: "small quiet" }, "Blue: machines that run. Yellow, dashed: machines wanted. Red, dotted: jobs that wait. Below, each machine: blue busy, green idle, yellow booting, grey at rest."),
      machines),
    h("div", { class: "columns" },
      h("section", {}, h("h2", {}, "Running where"), running),
      h("section", {}, h("h2", {}, "Failed lately"), failures)));
  const samples = [];
  let paused = false;

  const take = ({ pending, fleet }) => {
    const roles = Object.fromEntries((fleet?.machines ?? []).map((m) => [m.name, m.role]));
    samples.push({
      at: Date.now(),
      wanted: fleet?.desired.machines ?? 0,
      running: (fleet?.machines ?? []).filter(isUp).length,
      queue: pending,
      machines: roles,
    });
    while (samples.length > 2 && samples.at(-1).at - samples[0].at > SPAN * 1000) samples.shift();
  };

  const drawFleet = (answer) => {
    const { fleet, pause, silent } = answer;
    paused = Boolean(pause);
    control.disabled = false;
    control.textContent = paused ? "Resume the fleet" : "Pause the fleet";
    const words = [];
    if (pause) words.push(`Paused ${ago(pause.since)}${pause.reason ? `: ${pause.reason}` : ""}. No machine is started or stopped.`);
    if (silent) words.push("Jobs wait, and nobody looks after the machines: is the controller running?");
    if (!fleet) words.push("No controller has spoken yet. Workers that you start by hand work all the same.");
    words.push(...(fleet?.conditions ?? []).map((c) => c.message));
    notes.replaceChildren(...words.map((text) => h("p", { class: "problem" }, text)));
    if (!fleet) return;
    const span = Math.min(SPAN, Math.max(60, (samples.at(-1).at - samples[0].at) / 1000));
    chart.replaceChildren(wide("Machines over time", fleetChart(samples, span)));
    const names = [...new Set(samples.flatMap((sample) => Object.keys(sample.machines)))].sort().slice(0, 50);
    const price = fleet.machineUsdPerHour;
    const billed = fleet.desired.billed;
    const detail = fleet.machines.map((m) => [
      m.name, m.role, m.state ?? "", m.region ?? "",
      m.runningSince ? `for ${duration((new Date(answer.now) - new Date(m.runningSince)) / 1000)}` : "",
      m.jobId ?? "",
    ]);
    machines.replaceChildren(
      names.length > 0 ? wide("Each machine over time", machineStrips(samples, span, names)) : h("p", { class: "quiet" }, "No machine exists; one comes with the next job."),
      figures([
        ["wanted", fleet.desired.machines], ["busy", fleet.desired.busy], ["idle", fleet.desired.idle],
        ["at most", fleet.desired.max],
        ["cost now", price === undefined ? "no price known" : price === 0 ? "nothing: this machine" : `${dollars(price * billed)} an hour`],
      ]),
      detail.length > 0 ? table("Machines", ["Machine", "Role", "State", "Region", "Runs", "Job"], detail) : "");
  };

  const look = async () => {
    try {
      const [stats, status, fleet, failed] = await Promise.all([
        api.getStats(), api.getStatus(), api.getFleet(), api.listJobs({ status: "failed", limit: 10 })]);
      if (signal.aborted) return;
      said.replaceChildren();
      take(fleet);
      queue.replaceChildren(figures([
        ["uploading", stats.uploading], ["waiting", stats.pending], ["later", stats.scheduled], ["running", stats.running],
        ["completed", stats.completed], ["failed", stats.failed], ["webhooks owed", stats.pendingWebhooks], ["workers", stats.workers],
      ]), h("p", { class: "quiet small" }, stats.oldestPendingMs === undefined ? "Nothing waits." : `The oldest has waited for ${duration(stats.oldestPendingMs / 1000)}.`));
      drawFleet(fleet);
      const busy = status.workers.filter((worker) => worker.jobId);
      running.replaceChildren(busy.length > 0
        ? table("Jobs that run", ["Worker", "Job"], busy.map((worker) => [worker.workerId, worker.jobId]))
        : h("p", { class: "quiet" }, "No job runs."));
      failures.replaceChildren(failed.jobs.length > 0
        ? table("Failed jobs", ["When", { name: "Why", wide: true }, "Job"], failed.jobs.map((job) => [
          ago(job.timestamps.completedAt ?? job.timestamps.createdAt), job.error ?? "", job.jobId]))
        : h("p", { class: "quiet" }, "None on record."));
    } catch (error) {
      if (!signal.aborted) said.replaceChildren(h("p", { class: "problem" }, error.message));
    }
  };

  control.addEventListener("click", async () => {
    const words = paused ? "Let machines be started and stopped again?"
      : "Stop starting and stopping machines? Jobs that run go on; new ones wait.";
    if (!window.confirm(words)) return;
    try {
      await (paused ? api.resumeFleet() : api.pauseFleet("paused from the page"));
    } catch (error) {
      said.replaceChildren(h("p", { class: "problem" }, error.message));
    }
    look();
  });
  const rounds = async () => {
    while (!signal.aborted) {
      // Nobody looks at a page that is hidden.
      if (!document.hidden) await look();
      await new Promise((later) => setTimeout(later, PAUSE));
    }
  };
  rounds();
};
