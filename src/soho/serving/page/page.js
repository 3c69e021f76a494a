// The page: four places, each a form whose fields go to one route of the API. Text from the server is only ever text.

import { showCodes, showMaps } from "./inside.js";
import { ask, element, percent } from "./parts.js";

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const PLACES = ["search", "ask", "compare", "inside"];
let server; // what /api/models says

// -- Asking the server ---------------------------------------------------------------------------------------------

// Shows in `output` that something is computed, then what it gives or why not.
async function working(output, job) {
  const words = element("p");
  const bar = element("div", { className: "progress" }, element("div", {}, element("i")), words);
  bar.setAttribute("role", "progressbar");
  bar.setAttribute("aria-label", "computing");
  output.replaceChildren(bar);
  const begin = performance.now();
  let busy = "";
  const tell = () => {
    const usual = server.seconds >= 1 ? `, usually about ${Math.ceil(server.seconds)} s` : "";
    words.textContent = busy || `the model reads: ${((performance.now() - begin) / 1000).toFixed(1)} s${usual}`;
  };
  tell();
  const clock = setInterval(tell, 100);
  try {
    const shown = await job((said) => { busy = said; });
    output.replaceChildren(...shown);
  } catch (error) {
    output.replaceChildren(element("p", { className: "trouble", textContent: error.message }));
  } finally {
    clearInterval(clock);
  }
}

// -- Pictures that are chosen --------------------------------------------------------------------------------------

const chosen = new Map(); // picker -> Blob

function makePicker(picker) {
  const input = element("input", { type: "file", accept: "image/jpeg,image/png,image/webp" });
  input.setAttribute("aria-label", picker.dataset.label);
  const hint = element("span", { textContent: `${picker.dataset.label}: choose, drop or paste a file` });
  picker.append(element("label", {}, hint, input));
  input.addEventListener("change", () => input.files[0] && setPicture(picker, input.files[0]));
  const over = (event) => { event.preventDefault(); picker.classList.add("over"); };
  picker.addEventListener("dragover", over);
  picker.addEventListener("dragleave", () => picker.classList.remove("over"));
  picker.addEventListener("drop", (event) => {
    event.preventDefault();
    picker.classList.remove("over");
    if (event.dataTransfer.files[0]) setPicture(picker, event.dataTransfer.files[0]);
  });
}

function setPicture(picker, blob) {
  chosen.set(picker, blob);
  const old = $("img", picker);
  if (old) URL.revokeObjectURL(old.src);
  const shown = element("img", { src: URL.createObjectURL(blob), alt: `${picker.dataset.label}, chosen` });
  shown.addEventListener("error", () => shown.replaceWith(element("span", { textContent: blob.name || "a file" })));
  $("label", picker).firstChild.replaceWith(shown);
}

async function setFromServer(picker, address) {
  setPicture(picker, await (await fetch(address)).blob());
}

const pickers = (panel) => $$(".picker", panel).filter((picker) => !picker.hidden);

document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
  const panel = $("section:not([hidden]) .panel:not([hidden])");
  const free = panel && (pickers(panel).find((picker) => !chosen.has(picker)) || pickers(panel)[0]);
  if (file && free) setPicture(free, file);
});

// -- What answers look like ----------------------------------------------------------------------------------------

function bars(rows, best) {
  return element("ol", { className: "answers" }, ...rows.map(({ text, probability }) => {
    const fill = element("i");
    fill.style.width = `${100 * probability}%`;
    return element(
      "li", { className: best ? "best" : "" },
      element("span", { className: "word", textContent: text }),
      element("span", { className: "share", textContent: percent(probability) }),
      element("div", { className: "track" }, fill),
    );
  }));
}

const took = (reply) => element("p", { className: "note", textContent: `${reply.seconds.toFixed(2)} s of computing` });

function found(reply) {
  if (!reply.found.length) return [element("p", { textContent: "The index holds no pictures." })];
  const cards = reply.found.map((hit, place) => {
    const value = hit.probability === null ? hit.similarity.toFixed(3) : percent(hit.probability);
    const copies = hit.copies ? `, and ${hit.copies} more with the same content` : "";
    const go = (place, words) => {
      const button = element("button", { type: "button", className: "small", textContent: words });
      button.addEventListener("click", async () => {
        location.hash = place;
        const picker = $(`#${place} .panel:not([hidden]) .picker`);
        await setFromServer(picker, `${hit.picture}?size=large`);
      });
      return button;
    };
    return element(
      "li", {},
      element("img", { src: hit.picture, alt: hit.name, loading: "lazy" }),
      element("p", {}, `${place + 1}. `, element("b", { textContent: value }), ` ${hit.name}${copies}`),
      element(
        "div", { className: "row" },
        server.needs.answer ? null : go("ask", "ask"), server.needs.inspect ? null : go("inside", "look inside"),
      ),
    );
  });
  const about = `best of ${reply.pictures.toLocaleString("en")} pictures, ${reply.seconds.toFixed(2)} s of computing`;
  return [element("ol", { className: "found" }, ...cards), element("p", { className: "note", textContent: about })];
}

const RESULTS = {
  search: (reply) => found(reply),
  answer: (reply) => [bars(reply.answers, true), took(reply)],
  compare: (reply) => [bars(reply.classes, true), took(reply)],
  entails: (reply) => [bars(reply.classes, true), took(reply)],
  match: (reply) => [bars(reply.matches, false), took(reply)],
};

// -- Forms ---------------------------------------------------------------------------------------------------------

function bodyOf(panel) {
  const body = new FormData();
  for (const picker of pickers(panel)) {
    if (!chosen.has(picker)) throw new Error(`${picker.dataset.label}: choose a picture first.`);
    const blob = chosen.get(picker);
    if (blob.size > server.limits.upload_bytes) {
      const most = Math.floor(server.limits.upload_bytes / 1048576);
      throw new Error(`${picker.dataset.label}: the file is larger than ${most} MiB.`);
    }
    body.append(picker.dataset.name, blob, "picture");
  }
  for (const field of $$("[name]", panel)) {
    const rows = field.name === "texts" ? field.value.split("\n").filter((row) => row.trim()) : [field.value];
    rows.filter((row) => row).forEach((row) => body.append(field.name, row));
  }
  return body;
}

async function send(panel) {
  const button = $("form > button", panel);
  button.disabled = true;
  await working($("output", panel), async (told) => {
    const body = bodyOf(panel);
    const reply = await ask(`api/${panel.dataset.route}`, body, told);
    if (panel.dataset.kind !== "inspect") return RESULTS[panel.dataset.kind](reply);
    const shown = await showMaps(reply, pickers(panel).map((picker) => chosen.get(picker)));
    if (!server.needs.codes) {
      const only = new FormData();
      only.append("image", body.get("image"), "picture");
      shown.append(await showCodes(await ask("api/codes", only, told), body.get("image"), server.needs.patches));
    }
    return [shown];
  });
  button.disabled = false;
}

async function takeExample(panel, example) {
  await Promise.all(example.pictures.map((address, place) => setFromServer(pickers(panel)[place], address)));
  if (!example.text) return;
  const field = $("[name=text], [name=question], [name=texts]", panel);
  field.value = example.text;
  $("form", panel).requestSubmit();
}

function showExamples(panel) {
  const own = server.examples.filter((example) => example.kind === panel.dataset.kind);
  const one = pickers(panel).length === 1;
  const rows = own.length || !one ? own : server.samples.map((address) => ({ text: "", pictures: [address] }));
  if (!rows.length) return;
  const buttons = rows.map((example) => {
    const button = element("button", { type: "button", className: "example" });
    button.classList.toggle("plain", !example.pictures.length);
    button.append(...example.pictures.map((src) => element("img", { src, alt: example.text ? "" : "a picture" })));
    if (example.text) button.append(element("span", { textContent: example.text.replaceAll("\n", " · ") }));
    button.addEventListener("click", () => takeExample(panel, example));
    return element("li", {}, button);
  });
  const title = own.length ? "Examples" : "Pictures of the index";
  $("form", panel).after(
    element("div", { className: "examples" }, element("p", { textContent: title }), element("ul", {}, ...buttons)),
  );
}

// -- Places --------------------------------------------------------------------------------------------------------

function needs(text) {
  // `commands` between backquotes are set as such.
  const parts = text.split("`").map((part, n) => (n % 2 ? element("code", { textContent: part }) : part));
  return element("p", { className: "needs" }, ...parts);
}

function preparePanel(panel) {
  const missing = server.needs[panel.dataset.kind];
  if (missing) {
    panel.classList.add("wide");
    panel.replaceChildren(needs(missing));
    return;
  }
  panel.classList.toggle("wide", panel.dataset.kind === "search");
  $$(".picker", panel).forEach(makePicker);
  $$("input:not([type=file]), textarea", panel).forEach((field) => {
    if (field.name !== "texts") field.maxLength = server.limits.text_characters;
  });
  if (panel.dataset.kind === "inspect") prepareChoice(panel);
  showExamples(panel);
  $("form", panel).addEventListener("submit", (event) => {
    event.preventDefault();
    if (!$("form > button", panel).disabled) send(panel);
  });
}

function prepareChoice(panel) {
  const select = $("select", panel);
  const names = { match: "retrieval", answer: "question answering", entails: "entailment", compare: "two pictures" };
  const there = Object.keys(names).filter((verb) => !server.needs[verb]);
  select.append(...there.map((verb) => element("option", { value: verb, textContent: names[verb] })));
  select.parentElement.hidden = there.length < 2;
  const second = $(".picker[data-name=second]", panel);
  const change = () => { second.hidden = select.value !== "compare"; };
  select.addEventListener("change", change);
  change();
}

function go() {
  const wanted = location.hash.slice(1);
  const first = PLACES.find((name) => !placeMissing(name)) || PLACES[0];
  const place = PLACES.includes(wanted) ? wanted : first;
  $$("section").forEach((section) => { section.hidden = section.id !== place; });
  $$("nav a").forEach((link) => {
    if (link.hash === `#${place}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  });
}

const placeMissing = (name) => $$(".panel", $(`#${name}`)).every((panel) => server.needs[panel.dataset.kind]);

function showKind(kind) {
  $$("[data-shows]").forEach((one) => one.setAttribute("aria-pressed", String(one.dataset.shows === kind)));
  $$("#compare .panel").forEach((panel) => { panel.hidden = panel.dataset.kind !== kind; });
}

async function start() {
  try {
    server = await ask("api/models");
  } catch (error) {
    Object.assign($("#trouble"), { textContent: error.message, hidden: false });
    return;
  }
  $$(".panel").forEach(preparePanel);
  const kinds = $$("[data-shows]");
  kinds.forEach((one) => one.addEventListener("click", () => showKind(one.dataset.shows)));
  const kind = (kinds.find((one) => !server.needs[one.dataset.shows]) || kinds[0]).dataset.shows;
  showKind(kind);
  $$("nav a").forEach((link) => link.classList.toggle("missing", placeMissing(link.hash.slice(1))));
  $("#models").textContent = server.models.map((model) => `${model.verb}: ${model.folder}`).join(" · ");
  addEventListener("hashchange", go);
  go();
  document.documentElement.dataset.ready = "true";
}

start();
