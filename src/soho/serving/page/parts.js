// What every part of the page uses.

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children.filter((child) => child !== null));
  return made;
}

// Never 100 % of something that is not certain.
export const percent = (share) => {
  if (share > 0.999) return share < 1 ? "> 99.9 %" : "100 %";
  return `${(100 * share).toFixed(share < 0.1 || share > 0.99 ? 1 : 0)} %`;
};

const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

// Sends a request; a busy server is asked again when it says so, three times.
export async function ask(route, body, told = () => {}) {
  for (let tries = 0; ; tries += 1) {
    let reply;
    try {
      reply = await fetch(route, body ? { method: "POST", body } : {});
    } catch {
      throw new Error("The server does not answer; is `soho serve` still running?");
    }
    if (reply.status === 503 && tries < 3) {
      const wait = Math.min(Number(reply.headers.get("Retry-After")) || 1, 30);
      told(`the server is busy; asking again in ${wait} s`);
      await pause(wait);
      told("");
      continue;
    }
    const said = await reply.json().catch(() => ({ error: `The server said ${reply.status}.` }));
    if (!reply.ok) throw new Error(said.error);
    return said;
  }
}
