// The view for operators: the queue, the machines, failed jobs, and costs.

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

/** The fleets of all pools. */
const fleets = ({ fleet, others = [] }) => fleet ? [fleet, ...others] : [];

const sum = (items, number) => items.reduce((total, item) => total + number(item), 0);

export const operate = (main, signal) => {
  const [queue, chart, machines, running, failures] = [h("div"), h("div"), h("div"), h("div"), h("div")];
  const [notes, said] = [h("div"), h("div", { role: "alert" })];
  const control = h("button", { type: "button", disabled: true }, "Pause the fleet");
  main.replaceChildren(
    h("h1", {}, "Status"), said,
    h("section", {}, h("h2", {}, "Queue"), queue),
    h("section", {}, h("div", { class: "row apart" }, h("h2", {}, "Machines"), control), notes, chart,
      h("p", { class: "small quiet" }, "Blue: running machines. Yellow, dashed: desired machines. Red, dotted: waiting jobs. Below, each machine: blue busy, green idle, yellow booting, grey stopped."),
      machines),
    h("div", { class: "columns" },
      h("section", {}, h("h2", {}, "Running jobs"), running),
      h("section", {}, h("h2", {}, "Recent failures"), failures)));
  const samples = [];
  let paused = false;

  const take = (answer) => {
    const all = fleets(answer);
    const each = all.flatMap((fleet) => fleet.machines);
    const roles = Object.fromEntries(each.map((m) => [m.name, m.role]));
    samples.push({
      at: Date.now(),
      wanted: sum(all, (fleet) => fleet.desired.machines),
      running: each.filter(isUp).length,
      queue: answer.pending,
      machines: roles,
    });
    while (samples.length > 2 && samples.at(-1).at - samples[0].at > SPAN * 1000) samples.shift();
  };

  const drawFleet = (answer) => {
    const { pause, silent } = answer;
    const all = fleets(answer);
    paused = Boolean(pause);
    control.disabled = false;
    control.textContent = paused ? "Resume the fleet" : "Pause the fleet";
    const words = [];
    if (pause) words.push(`Paused ${ago(pause.since)}${pause.reason ? `: ${pause.reason}` : ""}. No machine is started or stopped until the fleet is resumed.`);
    if (silent) words.push("Jobs are waiting, but no controller manages the machines. Is tcoder controller running?");
    if (all.length === 0) words.push("No controller has reported yet. Workers that you start yourself run jobs nevertheless.");
    words.push(...all.flatMap((fleet) => fleet.conditions).map((c) => c.message));
    notes.replaceChildren(...words.map((text) => h("p", { class: "problem" }, text)));
    if (all.length === 0) return;
    const span = Math.min(SPAN, Math.max(60, (samples.at(-1).at - samples[0].at) / 1000));
    chart.replaceChildren(wide("Machines over time", fleetChart(samples, span)));
    const names = [...new Set(samples.flatMap((sample) => Object.keys(sample.machines)))].sort().slice(0, 50);
    const costs = all.map((fleet) => fleet.billedUsdPerHour ?? fleet.machineUsdPerHour * fleet.desired.billed);
    const cost = costs.reduce((total, one) => total + one);
    const isFree = all.every((fleet) => fleet.machineUsdPerHour === 0);
    const detail = all.flatMap((fleet) => fleet.machines).map((m) => [
      m.name, m.role, m.state ?? "", m.region ?? "",
      m.runningSince ? `for ${duration((new Date(answer.now) - new Date(m.runningSince)) / 1000)}` : "",
      m.jobId ?? "",
    ]);
    machines.replaceChildren(
      names.length > 0 ? wide("Each machine over time", machineStrips(samples, span, names)) : h("p", { class: "quiet" }, "There are no machines. The next job starts one."),
      figures([
        ...[["desired", "machines"], ["busy", "busy"], ["idle", "idle"], ["maximum", "max"]]
          .map(([name, field]) => [name, sum(all, (fleet) => fleet.desired[field])]),
        ["cost now", Number.isNaN(cost) ? "price unknown" : isFree ? "free: this machine" : `${dollars(cost)} an hour`],
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
        ["uploading", stats.uploading], ["waiting", stats.pending], ["scheduled", stats.scheduled], ["running", stats.running],
        ["completed", stats.completed], ["failed", stats.failed], ["pending webhooks", stats.pendingWebhooks], ["workers", stats.workers],
      ]), h("p", { class: "quiet small" }, stats.oldestPendingMs === undefined ? "No job is waiting." : `The oldest job has been waiting for ${duration(stats.oldestPendingMs / 1000)}.`));
      drawFleet(fleet);
      const busy = status.workers.filter((worker) => worker.jobId);
      running.replaceChildren(busy.length > 0
        ? table("Running jobs", ["Worker", "Job"], busy.map((worker) => [worker.workerId, worker.jobId]))
        : h("p", { class: "quiet" }, "No job is running."));
      failures.replaceChildren(failed.jobs.length > 0
        ? table("Failed jobs", ["When", { name: "Why", wide: true }, "Job"], failed.jobs.map((job) => [
          ago(job.timestamps.completedAt ?? job.timestamps.createdAt), job.error ?? "", job.jobId]))
        : h("p", { class: "quiet" }, "No job has failed in the last week."));
    } catch (error) {
      if (!signal.aborted) said.replaceChildren(h("p", { class: "problem" }, error.message));
    }
  };

  control.addEventListener("click", async () => {
    const words = paused ? "Resume starting and stopping machines?"
      : "Stop starting and stopping machines? Running jobs continue; new jobs wait if no worker is running.";
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
