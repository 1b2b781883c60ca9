// The public HTTP routes, and nothing else. URLs are relative, so that the page also works below a path.

const TRIES = 6; // of a request that finds the queue full
const KEY = "flexip-key"; // in sessionStorage: a key does not outlive its tab

/** What the service refused: a message for people, `param` names the field. */
export class Refusal extends Error {
  constructor({ message, param = null, code = null }, status = 0, wait = null) {
    super(message);
    Object.assign(this, { param, code, status, wait });
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
};

/** The answer to a request that was taken; throws a Refusal for any other. */
export async function send(path, options = {}) {
  const headers = { ...options.headers };
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal({ message: "The service does not answer. Is it still running?" });
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => null);
  const message = `The service answered ${answer.status}.`;
  throw new Refusal(told?.error ?? { message }, answer.status, Number(answer.headers.get("retry-after")) || null);
}

export async function subjects() {
  return (await (await send("v1/subjects")).json()).data;
}

export async function addSubject(file, cutOut) {
  const body = new FormData();
  body.append("image", file, "subject");
  body.append("cut_out", String(cutOut));
  return (await send("v1/subjects", { method: "POST", body })).json();
}

export async function removeSubject(id) {
  await send(`v1/subjects/${id}`, { method: "DELETE" });
}

/**
 * Draws one picture: yields {blob} for each preview, then {blob, receipt}. Comes back later when the queue is full, and
 * tells `waits` for how many seconds. A request is a path with what `fetch` takes.
 */
export async function* draw(request, signal, waits) {
  const answer = await patiently(request, signal, waits);
  for await (const data of events(answer.body)) {
    if (data.error) throw new Refusal(data.error);
    const bytes = Uint8Array.from(atob(data.b64_json), (letter) => letter.charCodeAt(0));
    yield { blob: new Blob([bytes], { type: `image/${data.output_format}` }), receipt: data.receipt };
  }
}

async function patiently({ path, ...options }, signal, waits) {
  for (let tries = 1; ; tries++) {
    try {
      return await send(path, { method: "POST", ...options, signal });
    } catch (refusal) {
      if (refusal.status !== 429 || !refusal.wait || tries === TRIES) throw refusal;
      waits(refusal.wait);
      await pause(refusal.wait * 1000, signal);
    }
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

/** The data of server-sent events, of which the service writes one line each. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (text + value).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const line = block.split("\n").find((line) => line.startsWith("data: "));
      if (line) yield JSON.parse(line.slice(6));
    }
  }
}
