// Sends a file straight to storage.

import { Pace } from "./format.js";

/** PUTs `file` to `url`; `tell({sent, total, speed})` as it goes. Answers {done, stop}: `done` rejects with words
    where it did not work. */
export const put = (url, file, tell) => {
  // fetch does not tell how far an upload is.
  const request = new XMLHttpRequest();
  const pace = new Pace();
  const done = new Promise((resolve, reject) => {
    request.upload.onprogress = (event) => {
      tell({ sent: event.loaded, total: file.size, speed: pace.at(event.loaded) });
    };
    request.onload = () => {
      if (request.status >= 200 && request.status < 300) resolve();
      else if (request.status === 403) reject(new Error("the upload address is no longer good; start again"));
      else reject(new Error(`storage answered ${request.status}; try again`));
    };
    request.onerror = () => reject(new Error(
      "the connection to storage broke; check that the bucket lets this page upload (its CORS rule), and try again"));
    request.onabort = () => reject(new Error("the upload was stopped"));
    request.open("PUT", url);
    request.send(file);
  });
  return { done, stop: () => request.abort() };
};
