// The API's contract, /openapi.json, for people.

import { h, table } from "./dom.js";

const last = (ref) => ref.split("/").at(-1);
const anchor = (name) => `type-${name}`;

/** What a schema is, in a few words, with a link where it has a name. */
const kind = (schema) => {
  if (schema === true || schema === undefined) return "anything";
  if (schema.$ref) return h("a", { href: `#${anchor(last(schema.$ref))}` }, last(schema.$ref));
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) {
    const some = choices.filter((one) => one.type !== "null");
    return some.flatMap((one, n) => (n > 0 ? [" or ", kind(one)] : [kind(one)]));
  }
  if (schema.const !== undefined) return h("code", {}, JSON.stringify(schema.const));
  if (schema.enum) return schema.enum.flatMap((value, n) => [n > 0 ? ", " : "", h("code", {}, String(value))]);
  const types = [schema.type].flat().filter((type) => type && type !== "null");
  if (types[0] === "array") return ["list of ", kind(schema.items)];
  const range = [schema.minimum !== undefined && `at least ${schema.minimum}`, schema.maximum !== undefined && `at most ${schema.maximum}`]
    .filter(Boolean).join(", ");
  const exact = schema.format && !/^u?int|^double|^float/.test(schema.format) ? ` (${schema.format})` : "";
  return `${types.join(" or ") || "object"}${exact}${range ? `, ${range}` : ""}`;
};

/** Sentences, with `code` as such. */
const words = (text = "") => text.split(/`([^`]+)`/).map((part, n) => (n % 2 ? h("code", {}, part) : part));

/** Paragraphs, and lists of lines that begin with a dash. */
const prose = (text = "") => text.split("\n\n").map((part) => part.startsWith("- ")
  ? h("ul", {}, part.slice(2).split("\n- ").map((line) => h("li", {}, words(line))))
  : h("p", {}, words(part)));

/** The fields of an object, those of its parts included. */
const fieldsOf = (schema, all) => {
  const found = {};
  for (const part of [schema, ...(schema.allOf ?? []), ...(schema.anyOf ?? []), ...(schema.oneOf ?? [])]) {
    const resolved = part.$ref ? all[last(part.$ref)] : part;
    for (const [name, field] of Object.entries(resolved.properties ?? {})) {
      found[name] = { field, required: (resolved.required ?? []).includes(name) && !(schema.anyOf ?? []).includes(part) };
    }
  }
  return Object.entries(found);
};

const fields = (caption, schema, all) => table(caption, ["Field", "Kind", { name: "What it is", wide: true }],
  fieldsOf(schema, all).map(([name, { field, required }]) => [
    h("code", {}, name), [kind(field), required ? ", always" : ""], words(field.description),
  ]));

const body = (content) => {
  const [[type, { schema }]] = Object.entries(content);
  return [h("code", {}, type), ": ", kind(schema)];
};

const answers = (operation, document) => table(`Answers of ${operation.operationId}`,
  ["Status", { name: "When", wide: true }, "Body"],
  Object.entries(operation.responses).map(([status, answer]) => {
    const one = answer.$ref ? document.components.responses[last(answer.$ref)] : answer;
    return [status, words(one.description), one.content ? body(one.content) : "none"];
  }));

const parameters = (operation) => operation.parameters?.length > 0 && table(`Parameters of ${operation.operationId}`,
  ["Parameter", "Where", "Kind", { name: "What it is", wide: true }],
  operation.parameters.map((one) => [h("code", {}, one.name), one.in, kind(one.schema), words(one.description)]));

const operation = (method, path, one, document) => {
  const schema = one.requestBody?.content["application/json"]?.schema;
  const all = document.components.schemas;
  const id = one.operationId;
  return h("section", { id, "aria-labelledby": `${id}-title` },
    h("h2", { id: `${id}-title` }, h("span", { class: `method ${method}` }, method.toUpperCase()), " ", h("code", {}, path)),
    h("p", {}, words(one.summary), "."),
    prose(one.description),
    parameters(one),
    schema && h("div", {}, h("h3", {}, "Body", one.requestBody.required ? "" : ", may be left out"),
      fields(`Body of ${id}`, schema.$ref ? all[last(schema.$ref)] : schema, all)),
    h("h3", {}, "Answers"), answers(one, document));
};

const type = (name, schema, all) => h("section", { id: anchor(name), "aria-labelledby": `${anchor(name)}-title` },
  h("h3", { id: `${anchor(name)}-title` }, name),
  schema.description && prose(schema.description),
  fieldsOf(schema, all).length > 0 ? fields(`Fields of ${name}`, schema, all) : h("p", { class: "small" }, kind(schema)));

const show = async () => {
  const main = document.getElementById("main");
  const response = await fetch("/openapi.json");
  if (!response.ok) throw new Error(`the server answered ${response.status}; reload the page`);
  const contract = await response.json();
  // What everybody needs comes first.
  const rank = (path) => ["/api/upload", "/api/jobs"].findIndex((first) => path.startsWith(first)) >>> 0;
  const paths = Object.entries(contract.paths).sort(([a], [b]) => rank(a) - rank(b));
  const operations = paths.flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, one]) => ({ path, method, one })));
  const schemas = Object.entries(contract.components.schemas).sort(([a], [b]) => a.localeCompare(b));
  main.replaceChildren(
    h("h1", {}, "The API"),
    h("p", {}, words(contract.info.description)),
    h("p", {}, "Where the installation has ", h("code", {}, "API_TOKENS"), ", send one with each request: ",
      h("code", {}, "Authorization: Bearer TOKEN"), ". For programs there is ", h("a", { href: "/openapi.json" }, "/openapi.json"), "."),
    h("nav", { "aria-label": "Requests" }, h("ul", { class: "contents" }, operations.map(({ path, method, one }) =>
      h("li", {}, h("a", { href: `#${one.operationId}` }, `${method.toUpperCase()} ${path}`))))),
    ...operations.map(({ path, method, one }) => operation(method, path, one, contract)),
    h("h2", {}, "Types"),
    ...schemas.map(([name, schema]) => type(name, schema, contract.components.schemas)));
  // The browser looked for the place before it was there.
  if (location.hash) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
};

show().catch((error) => document.getElementById("main").replaceChildren(h("p", { class: "problem", role: "alert" }, error.message)));
