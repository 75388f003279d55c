// The first view: a video in, renditions out.

import * as api from "./api.js";
import { presets, qualities, stills } from "./choices.js";
import { h } from "./dom.js";
import { bytes, duration } from "./format.js";
import { history } from "./history.js";
import { jobCard } from "./job.js";
import { about, begun, put } from "./upload.js";

const radios = () =>
  h("fieldset", {}, h("legend", {}, "Output format"), presets.map(({ value, name, text }, n) =>
    h("label", { class: "choice" },
      h("input", { type: "radio", name: "preset", value, checked: n === 0 }),
      h("span", {}, h("strong", {}, name), " ", h("code", { class: "quiet small" }, value), h("br"), h("span", { class: "quiet small" }, text)))));

const boxes = () =>
  h("fieldset", {}, h("legend", {}, "Qualities"),
    h("p", { class: "quiet small", id: "usual" }),
    h("div", { class: "choices" }, qualities.map(({ value, text }) =>
      h("label", { class: "choice" },
        h("input", { type: "checkbox", name: "quality", value }),
        h("span", {}, h("strong", {}, value), " ", h("span", { class: "quiet small" }, text))))));

const extras = () =>
  h("fieldset", {}, h("legend", {}, "Still images"), stills.map(({ value, name, text }) =>
    h("label", { class: "choice" },
      h("input", { type: "checkbox", name: "still", value, checked: true }),
      h("span", {}, h("strong", {}, name), " ", h("span", { class: "quiet small" }, text)))));

/** What was chosen, as the API wants it. */
const options = (form) => {
  const data = new FormData(form);
  return { preset: data.get("preset"), outputQualities: data.getAll("quality"), stills: data.getAll("still") };
};

export const transcode = (main, signal) => {
  const file = h("input", { type: "file", id: "file", accept: "video/*,audio/*,.mkv,.mxf,.ts" });
  const drop = h("label", { class: "drop", for: "file" },
    h("strong", {}, "Drop a video here"), h("br"), "or choose a file", h("br"), h("br"), file);
  const url = h("input", { type: "url", id: "url", placeholder: "https://example.com/film.mp4", autocomplete: "off" });
  const start = h("button", { class: "main" }, "Start");
  const said = h("div", { role: "alert" });
  const form = h("form", {},
    h("h1", {}, "Turn a video into something every screen can play"),
    h("div", { class: "columns" },
      h("section", {}, h("h2", {}, "The video"), drop,
        h("label", { class: "field", for: "url" }, "or its address"), url),
      h("section", {}, h("h2", {}, "The result"), radios(), boxes(), extras())),
    said, h("p", {}, start));
  const jobs = h("div");
  const past = history(signal, (id) => add(id));
  main.replaceChildren(form, jobs, past.box);

  const tellUsual = () => {
    const { preset, outputQualities } = options(form);
    const { usual } = presets.find(({ value }) => value === preset);
    form.querySelector("#usual").textContent =
      outputQualities.length > 0 ? `Made: ${outputQualities.join(", ")}` : `None chosen: ${usual}.`;
  };
  form.addEventListener("change", tellUsual);
  tellUsual();

  /** Shows a job, once. */
  const add = (id, sending) => {
    const there = document.getElementById(`job-${id}`);
    if (there) {
      there.focus();
      return;
    }
    const card = jobCard(id, signal, sending, past.refresh);
    jobs.prepend(card);
    card.focus();
  };

  const send = async (video) => {
    const wanted = options(form);
    const ticket = await begun(video, wanted) ??
      await api.upload({ ...wanted, ...about(video) });
    // It is there already: the same request came before.
    if (!ticket.uploadUrl && !ticket.goesOn) return add(ticket.jobId);
    add(ticket.jobId, sender(video, wanted, ticket));
  };

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    said.replaceChildren();
    start.disabled = true;
    try {
      if (file.files.length > 0) {
        for (const video of file.files) await send(video);
        file.value = "";
      } else if (url.value.trim() !== "") {
        const job = await api.submit({ ...options(form), inputUrl: url.value.trim() });
        add(job.jobId);
        url.value = "";
      } else {
        throw new Error("choose a file, drop one, or give an address");
      }
    } catch (error) {
      said.replaceChildren(h("p", { class: "problem" }, error.message));
    }
    start.disabled = false;
  });

  for (const name of ["dragenter", "dragover"]) {
    drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length > 0) {
      file.files = event.dataTransfer.files;
      form.requestSubmit();
    }
  });
  // A page that is closed in the middle of an upload stops it.
  const leave = (event) => { if (document.querySelector("[data-sending]")) event.preventDefault(); };
  window.addEventListener("beforeunload", leave);
  signal.addEventListener("abort", () => window.removeEventListener("beforeunload", leave));
};

/** Sends a file, as often as it is told to; shows how far it is. */
const sender = (video, wanted, ticket) => {
  const bar = h("progress", { max: video.size || 1, value: 0, "aria-label": `Upload of ${video.name}` });
  const words = h("span", { class: "small" }, "starting");
  const stop = h("button", { type: "button" }, "Stop");
  const again = h("button", { type: "button", hidden: true }, "Try again");
  const box = h("div", { "data-sending": true },
    bar, h("div", { class: "row apart" }, words, h("span", { class: "row" }, again, stop)));
  const run = () => {
    [again.hidden, stop.hidden] = [true, false];
    box.setAttribute("data-sending", "");
    const sending = put(video, wanted, ticket, ({ sent, total, speed }) => {
      bar.value = sent;
      const left = speed > 0 ? `, ${duration((total - sent) / speed)} left` : "";
      words.textContent =
        `${bytes(sent)} of ${bytes(total)}${speed > 0 ? `, ${bytes(speed)} a second` : ""}${left}`;
    });
    stop.onclick = sending.stop;
    sending.done.then(
      () => { box.removeAttribute("data-sending"); box.replaceChildren(h("span", { class: "small" }, `${bytes(video.size)} uploaded`)); },
      (error) => {
        box.removeAttribute("data-sending");
        words.textContent = `${error.message}. ${ticket.multipart || ticket.goesOn ? "The parts that were sent are kept: try again now or later" : "Try again"}`;
        [again.hidden, stop.hidden] = [false, true];
      });
  };
  again.onclick = run;
  run();
  return { box, name: video.name };
};
