// Talks to the models of this server, to one or to two side by side. Everything that a model writes is shown as text
// and never as markup.
"use strict";

const at = (id) => document.getElementById(id);

// One for each question: { question, answers: [{ model, text, problem, elements }] }.
let turns = [];
// What stops the answers that are being written.
let stops = new Set();

function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

function headers() {
  const key = at("key").value;
  return { "content-type": "application/json", ...(key && { authorization: `Bearer ${key}` }) };
}

// The response to a request, or the error that the server gives as its reason.
async function ask(path, options) {
  const response = await fetch(path, { headers: headers(), ...options });
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new Error(body?.error?.message ?? `the server has answered with status ${response.status}`);
}

async function loadModels() {
  const chosen = [at("first").value, at("second").value];
  try {
    const models = (await (await ask("v1/models")).json()).data.map((model) => model.id);
    at("first").replaceChildren(...models.map((id) => new Option(id)));
    at("second").replaceChildren(new Option("no other", ""), ...models.map((id) => new Option(id)));
    if (models.includes(chosen[0])) at("first").value = chosen[0];
    if (models.includes(chosen[1])) at("second").value = chosen[1];
    at("key").setCustomValidity("");
  } catch (problem) {
    at("key").setCustomValidity(problem.message);
    at("key").closest("details").open = true;
    at("key").reportValidity();
  }
}

// The messages before an answer of a model: each earlier question with what that model, or else the first one, has
// answered.
function messagesBefore(turn, model) {
  const messages = [];
  const system = at("system").value.trim();
  if (system) messages.push({ role: "system", content: system });
  for (const earlier of turns.slice(0, turns.indexOf(turn))) {
    const answer = earlier.answers.find((answer) => answer.model === model) ?? earlier.answers[0];
    if (answer.problem) continue;
    messages.push({ role: "user", content: earlier.question });
    messages.push({ role: "assistant", content: answer.text });
  }
  messages.push({ role: "user", content: turn.question });
  return messages;
}

function sampling() {
  const settings = {};
  for (const name of ["temperature", "top_p", "max_tokens", "seed"]) {
    if (at(name).value !== "") settings[name] = Number(at(name).value);
  }
  return settings;
}

// The data of server-sent events, one by one.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      if (block.startsWith("data: ")) yield block.slice("data: ".length);
    }
  }
}

// Has a model answer the question of a turn, and shows the answer as it comes.
async function write(turn, answer) {
  const stop = new AbortController();
  stops.add(stop);
  answer.text = "";
  answer.problem = "";
  show(answer);
  try {
    const request = { model: answer.model, messages: messagesBefore(turn, answer.model), stream: true, ...sampling() };
    const options = { method: "POST", body: JSON.stringify(request), signal: stop.signal };
    const response = await ask("v1/chat/completions", options);
    let isDone = false;
    for await (const data of events(response.body)) {
      isDone = data === "[DONE]";
      if (isDone) break;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      answer.text += event.choices[0]?.delta.content ?? "";
      show(answer);
    }
    if (!isDone) throw new Error("the server has broken off");
  } catch (problem) {
    if (!stop.signal.aborted) answer.problem = problem.message;
  }
  stops.delete(stop);
  show(answer);
}

function show(answer) {
  const main = at("conversation");
  const isAtEnd = main.scrollHeight - main.scrollTop - main.clientHeight < 40;
  answer.elements.text.textContent = answer.text;
  answer.elements.problem.textContent = answer.problem;
  if (isAtEnd) main.scrollTop = main.scrollHeight;
  at("send").hidden = stops.size > 0;
  at("stop").hidden = stops.size === 0;
}

// The element of an answer, which can be copied, and written again where it belongs to the last question.
function answerElement(turn, answer) {
  const text = element("p", "text", "");
  const problem = element("p", "text problem", "");
  const copy = element("button", "copy", "Copy");
  copy.type = "button";
  // Browsers have no clipboard where a connection is neither encrypted nor to this machine.
  copy.hidden = !navigator.clipboard;
  copy.onclick = () => navigator.clipboard.writeText(answer.text);
  const again = element("button", "again", "Regenerate");
  again.type = "button";
  again.onclick = () => {
    if (stops.size === 0) write(turn, answer);
  };
  const footer = element("footer", "", "");
  footer.append(copy, again);
  const article = element("article", "answer", "");
  article.append(element("h2", "", answer.model), text, problem, footer);
  answer.elements = { text, problem, again };
  return article;
}

function send() {
  const question = at("message").value.trim();
  if (!question || stops.size > 0) return;
  at("message").value = "";
  for (const turn of turns) {
    for (const answer of turn.answers) answer.elements.again.hidden = true;
  }
  const models = [...new Set([at("first").value, at("second").value])].filter(Boolean);
  const turn = { question, answers: models.map((model) => ({ model, text: "", problem: "" })) };
  turns.push(turn);
  const answers = element("div", "answers", "");
  answers.append(...turn.answers.map((answer) => answerElement(turn, answer)));
  at("conversation").append(element("p", "text question", question), answers);
  at("conversation").scrollTop = at("conversation").scrollHeight;
  for (const answer of turn.answers) write(turn, answer);
}

function stop() {
  for (const each of stops) each.abort();
}

at("ask").onsubmit = (event) => {
  event.preventDefault();
  send();
};
at("message").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
};
document.onkeydown = (event) => {
  if (event.key === "Escape") stop();
};
at("stop").onclick = stop;
at("new").onclick = () => {
  stop();
  turns = [];
  at("conversation").replaceChildren();
  at("message").focus();
};
at("key").onchange = () => {
  sessionStorage.setItem("key", at("key").value);
  loadModels();
};
at("key").value = sessionStorage.getItem("key") ?? "";
loadModels();
