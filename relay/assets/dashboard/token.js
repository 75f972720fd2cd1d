// The token of the operations port, where the relay asks for one: asked for once, kept for as long as this tab is open.

import { el, say } from "./words.js";

const KEY = "anabranch-ops-token";

let asking = null;

/** As `fetch`, with the token; where the relay wants another one, that is asked for first. `patience` is that of each attempt, in milliseconds. */
export async function request(path, { patience, ...options } = {}) {
  for (;;) {
    const token = sessionStorage.getItem(KEY);
    const headers = token ? { ...options.headers, Authorization: `Bearer ${token}` } : options.headers;
    const answer = await fetch(path, { ...options, headers, signal: patience ? AbortSignal.timeout(patience) : null });
    if (answer.status !== 401) return answer;
    // Others may have been given a new one meanwhile.
    if (token !== sessionStorage.getItem(KEY)) continue;
    asking ??= askFor(token !== null).finally(() => asking = null);
    await asking;
  }
}

function askFor(wrong) {
  return new Promise(given => {
    const input = el("input", { type: "password", id: "ops-token", autocomplete: "off", spellcheck: "false", required: true });
    const said = el("output", { class: "said" }, wrong ? "The relay asks for another token." : "");
    const dialog = el("dialog", { class: "card", "aria-labelledby": "ops-token-title", oncancel: event => event.preventDefault() },
      el("form", { onsubmit: submit },
        el("h2", { id: "ops-token-title" }, "This relay asks for a token"),
        el("div", { class: "field" }, el("label", { for: "ops-token" }, "Token of the operations port"), input,
          el("small", {}, "What stands in the relay's ops_token_file. It is kept until this tab is closed.")),
        el("div", { class: "act" }, el("button", { class: "primary" }, "Open"), said)));
    function submit(event) {
      event.preventDefault();
      const token = input.value.trim();
      // What may stand in a header.
      if (!/^[A-Za-z0-9._~+/-]+=*$/.test(token)) return say(said, "A token is of A-Z a-z 0-9 - . _ ~ + / only.");
      sessionStorage.setItem(KEY, token);
      dialog.remove();
      given();
    }
    document.body.append(dialog);
    dialog.showModal();
  });
}
