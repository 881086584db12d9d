// The page of `rarememory play`. A drawing is the `d` of an SVG path; whatever was typed is shown
// as text, never as markup.

const SIDE = 256;
const at = (id) => document.getElementById(id);
const paper = at("paper");
const ink = paper.querySelector("path");

let strokes = []; // each a list of [x, y]
let learning = null; // the strokes that are being learnt
let pen = null; // the pointer that is down
let answer = null; // to the drawing on the paper
let known = []; // the classes
let turn = 0; // of the latest question; older answers are late

// Asking the session

async function ask(action, given = {}) {
  let reply;
  try {
    reply = await fetch(`api/${action}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(given),
    });
  } catch {
    throw new Error("rarememory is not running any more: start it again, and reload this page");
  }
  const result = await reply.json();
  if (!reply.ok) throw new Error(result.error);
  return result.answer;
}

async function act(action, given) {
  at("error").textContent = "";
  try {
    const sentence = await ask(action, given);
    await refresh();
    at("status").textContent = sentence;
    return true;
  } catch (error) {
    at("error").textContent = error.message;
    return false;
  }
}

async function recognise() {
  if (!strokes.length) return;
  const mine = ++turn;
  try {
    const result = await ask("ask", { drawing: path() });
    if (mine === turn) showAnswer(result);
  } catch (error) {
    if (mine === turn) at("error").textContent = error.message;
  }
}

// Drawing

const path = () => strokes.map((s) => "M" + s.map(([x, y]) => `${x} ${y}`).join("L")).join("");

// A point alone is seen only as a line to itself.
const dotted = (drawing) => drawing.replace(/M(\d+ \d+)(?=M|$)/g, "M$1L$1");

function place(event) {
  const box = paper.getBoundingClientRect();
  // Where the paper is wider than high, the drawing is in its middle.
  const side = Math.min(box.width, box.height);
  const whole = (v) => Math.max(0, Math.min(SIDE - 1, Math.round((v * SIDE) / side)));
  return [
    whole(event.clientX - box.left - (box.width - side) / 2),
    whole(event.clientY - box.top - (box.height - side) / 2),
  ];
}

function draw(event) {
  const stroke = strokes.at(-1);
  const steps = event.getCoalescedEvents?.() ?? [];
  for (const step of steps.length ? steps : [event]) {
    const [x, y] = place(step);
    const [lastX, lastY] = stroke.at(-1);
    if (Math.hypot(x - lastX, y - lastY) >= 3) stroke.push([x, y]);
  }
  showInk();
}

function showInk() {
  ink.setAttribute("d", dotted(path()));
  at("hint").hidden = strokes.length > 0;
  at("clear").hidden = !strokes.length;
}

function clear() {
  strokes = [];
  pen = answer = null;
  turn++;
  at("error").textContent = "";
  showInk();
  showAnswer(null);
}

paper.addEventListener("pointerdown", (event) => {
  if (pen !== null || event.button > 0) return;
  event.preventDefault();
  if (document.activeElement !== at("name")) document.activeElement?.blur();
  paper.setPointerCapture(event.pointerId);
  pen = event.pointerId;
  at("error").textContent = "";
  if (strokes === learning) strokes = [];
  strokes.push([place(event)]);
  showInk();
});

paper.addEventListener("pointermove", (event) => {
  if (event.pointerId === pen) draw(event);
});

for (const end of ["pointerup", "pointercancel"]) {
  paper.addEventListener(end, (event) => {
    if (event.pointerId !== pen) return;
    pen = null;
    recognise();
  });
}

// What is shown

function sheet(drawing) {
  const svg = at("drawing").content.firstElementChild.cloneNode(true);
  svg.firstElementChild.setAttribute("d", dotted(drawing));
  return svg;
}

function element(tag, kind, text = "") {
  const made = document.createElement(tag);
  made.className = kind;
  made.textContent = text;
  return made;
}

function blank(file) {
  const made = element("div", "blank", file.split("/").at(-1) ?? "");
  made.title = file;
  return made;
}

const sheets = ({ drawings, files }) => [...drawings.map(sheet), ...files.map(blank)];

function showAnswer(result) {
  answer = result;
  const panel = document.querySelector(".answer");
  panel.classList.toggle("is-known", Boolean(result?.label));
  panel.classList.toggle("is-strange", Boolean(result && !result.label && known.length));
  at("because").replaceChildren(...(result?.because ?? []).map((one) => because(one, result)));
  at("yes").hidden = !result?.label;
  at("yes").textContent = result?.label ? `Yes, remember this ${result.label} too` : "";
  at("legend").hidden = !result?.because.length;
  at("steps").hidden = Boolean(result || known.length);
  if (!result && !known.length) {
    say("It knows nothing yet.", "", "");
  } else if (!result) {
    say("Draw one of these again, or something new.", "", "");
  } else if (!known.length) {
    say("Nothing is remembered yet.", "What is it?", "Type its name and press Enter.");
  } else if (result.label) {
    say("This is", result.label, "since it is like what was drawn before:");
  } else {
    say("This is", "unknown", "since nothing is near enough. Name it, and it is known. The nearest:");
  }
}

function say(lead, word, why) {
  at("lead").textContent = lead;
  at("answer").textContent = word;
  at("why").textContent = why;
}

function because(one, result) {
  const item = element("li", one.score > result.threshold ? "above" : "");
  const bar = element("div", "score");
  const filled = document.createElement("i");
  const line = document.createElement("b");
  filled.style.width = `${100 * Math.max(0, Math.min(1, one.score))}%`;
  line.style.left = `${100 * Math.max(0, result.threshold)}%`;
  bar.append(filled, line);
  bar.title = `cosine ${one.score.toFixed(3)}; unknown at or below ${result.threshold.toFixed(3)}`;
  const label = element("span", "label", one.label);
  label.title = one.label;
  item.append(sheets(one)[0] ?? blank(""), label, bar, element("span", "number", one.score.toFixed(2)));
  return item;
}

function classCard(one) {
  const item = element("li", "");
  const top = element("div", "top");
  const label = element("span", "label", one.label);
  label.title = one.label;
  const forget = element("button", "", "Forget");
  forget.type = "button";
  forget.setAttribute("aria-label", `Forget ${one.label}`);
  forget.addEventListener("click", async () => {
    if (await act("forget", { name: one.label })) recognise();
  });
  top.append(label, forget);
  const row = element("div", "sheets");
  row.append(...sheets(one).slice(-12));
  item.append(top, row);
  return item;
}

async function refresh() {
  const state = await ask("state");
  known = state.classes;
  at("classes").replaceChildren(...known.map(classCard));
  at("empty").hidden = known.length > 0;
  at("names").replaceChildren(
    ...known.map((one) => Object.assign(document.createElement("option"), { value: one.label })),
  );
  at("undo").hidden = !state.undo;
  at("undo").textContent = at("undo").title = state.undo ? `Undo: ${state.undo}` : "";
  at("load").disabled = !state.on_disk;
  at("file").textContent = state.saved
    ? `In ${state.file}${state.on_disk ? "" : ", once you save it"}.`
    : `Not saved yet; Save writes ${state.file}.`;
  document.title = state.saved ? "rarememory" : "• rarememory";
  if (!strokes.length) showAnswer(null);
}

// What can be done

async function learn(name) {
  if (strokes === learning) return;
  const mine = (learning = strokes);
  const drawing = path();
  // What is typed and drawn from here on is the next one.
  at("name").value = "";
  const learnt = await act("learn", { drawing, name });
  if (learning === mine) learning = null;
  if (!learnt) {
    at("name").value ||= name;
  } else if (strokes === mine) {
    clear();
    say("Learnt", name.trim(), "Now draw it again, or something else.");
  } else {
    recognise();
  }
}

at("naming").addEventListener("submit", (event) => {
  event.preventDefault();
  learn(at("name").value);
});
at("yes").addEventListener("click", () => learn(answer.label));
at("clear").addEventListener("click", clear);
for (const action of ["undo", "save", "load"]) {
  at(action).addEventListener("click", async () => {
    if (await act(action)) recognise();
  });
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    clear();
  } else if (event.key === "z" && (event.ctrlKey || event.metaKey) && event.target !== at("name")) {
    event.preventDefault();
    if (strokes.length) {
      strokes.pop();
      showInk();
      strokes.length ? recognise() : clear();
    } else if (!at("undo").hidden) {
      at("undo").click();
    }
  } else if (event.key.length === 1 && !event.ctrlKey && !event.metaKey && strokes.length) {
    // Whoever types while a drawing lies there is naming it.
    if (event.target === document.body) at("name").focus();
  }
});

refresh().catch((error) => (at("error").textContent = error.message));
