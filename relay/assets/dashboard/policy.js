// The controls of a link's repair, and what the policy in force costs and brings.

import * as api from "./api.js";
import { el, many, rate, say, share, time } from "./words.js";

const MODES = [
  ["auto", "auto: by delay and loss"], ["arq", "arq: on request"], ["fec", "fec: ahead of loss"],
  ["hybrid", "hybrid: both"], ["duplicate", "duplicate: every packet twice"], ["off", "off: none"],
];

const SET_BY = { config: "as configured", live: "set here until the relay restarts", kept: "set here, and kept for the next start" };

export function policyForm(from, to) {
  const field = (name, label, hint, input) => {
    const id = `policy-${name}`;
    input.id = id;
    input.name = name;
    if (hint) input.setAttribute("aria-describedby", `${id}-hint`);
    return el("div", { class: "field" }, el("label", { for: id }, label), input, hint ? el("small", { id: `${id}-hint` }, hint) : null);
  };
  const inputs = {
    mode: el("select", {}, MODES.map(([value, text]) => el("option", { value }, text))),
    target_residual: el("input", { type: "text", inputmode: "decimal", autocomplete: "off", spellcheck: "false" }),
    max_overhead: el("input", { type: "number", min: 0, max: 1000, step: "any" }),
    capacity: el("input", { type: "text", autocomplete: "off", spellcheck: "false" }),
  };
  const persist = el("input", { type: "checkbox", id: "policy-persist" });
  const said = el("output", { class: "said" });
  const costs = el("p", { class: "effect" });
  const brings = el("p", { class: "effect" });
  const inForce = el("p", { class: "quiet" });
  const reset = el("button", { type: "button", onclick: () => order(() => api.resetRepair(from, to, persist.checked)) }, "Reset");
  const form = el("form", { class: "policy", onsubmit: submit, oninput: () => say(said, "") },
    el("h3", {}, `Repair of what ${from} sends to ${to}`), costs, brings,
    el("div", { class: "fields" },
      field("mode", "Mode", "", inputs.mode),
      field("target_residual", "Target", "share that may stay lost", inputs.target_residual),
      field("max_overhead", "Most repair, %", "of media bytes", inputs.max_overhead),
      field("capacity", "Capacity", "20 Mbit/s, or auto", inputs.capacity)),
    el("div", { class: "act" },
      el("button", { type: "submit", class: "primary" }, "Set"), reset,
      el("label", { class: "check" }, persist, "keep over a restart"), said),
    inForce);
  let shown = null;

  /** What the form says of the policy in force, field by field. */
  function written(policy) {
    return {
      mode: policy.mode,
      target_residual: policy.target_residual.toExponential().replace("e+0", ""),
      max_overhead: String(Number((policy.max_overhead * 100).toPrecision(6))),
      capacity: policy.capacity === null ? "auto" : rateExactly(policy.capacity),
    };
  }

  /** Shows what is in force; a field that the operator is changing is left alone. */
  function show(repair) {
    const now = written(repair.policy);
    for (const [name, input] of Object.entries(inputs)) {
      if (shown === null || input.value === shown[name]) input.value = now[name];
    }
    shown = now;
    say(inForce, `In force: ${now.mode}, target ${now.target_residual}, at most ${now.max_overhead} % repair, capacity ${now.capacity}; ${SET_BY[repair.set_by]}.`);
    const { repair: effect } = repair;
    say(costs, `Costs ${share(effect.cost_arq + effect.cost_fec)} of the media now: ${share(effect.cost_arq)} on request, ` +
      `${share(effect.cost_fec)} ahead of loss` + (effect.suppressed > 0 ? `; ${many(effect.suppressed, "repair packet")} held back` : "") +
      `. Over ${Math.round(effect.over_s)} s, against ${share(repair.wire_loss_sent)} lost on the wire.`);
  }

  async function order(act) {
    form.inert = true;
    try {
      const repair = await act();
      shown = null;
      show(repair);
      say(said, `In force since ${time(Date.now())}${repair.up ? "" : ", once the link is up"}`);
      said.className = "said done";
    } catch (error) {
      say(said, error.message);
      said.className = "said wrong";
    } finally {
      form.inert = false;
    }
  }

  function submit(event) {
    event.preventDefault();
    const change = { persist: persist.checked };
    if (inputs.mode.value !== shown?.mode) change.mode = inputs.mode.value;
    if (inputs.target_residual.value !== shown?.target_residual) change.target_residual = Number(inputs.target_residual.value);
    if (inputs.max_overhead.value !== shown?.max_overhead) change.max_overhead = Number(inputs.max_overhead.value) / 100;
    if (inputs.capacity.value !== shown?.capacity) change.capacity = inputs.capacity.value;
    order(() => api.setRepair(from, to, change));
  }

  async function update(way) {
    say(brings, way && way.saved !== null
      ? `Saves ${share(way.saved)} of the media, lost on the way and brought to ${to} in time; ${share(way.residual)} stays lost.`
      : `What it saves is told by ${to}, which has not yet.`);
    show(await api.repair(from, to));
  }

  return { element: form, update };
}

/** A rate that reads back as the same number. */
const rateExactly = bits => Number.isInteger(bits / 1e4) ? `${bits / 1e6} Mbit/s` : `${bits} bit/s`;
