// Shows one sample and one target of the methods that are chosen, and keeps the choice in the address.
"use strict";
(() => {
  const controls = document.getElementById("controls");
  const samples = [...document.querySelectorAll("section[data-sample]")];
  const cells = [...document.querySelectorAll("figure[data-method]")];
  const methods = [...controls.querySelectorAll("input[name=method]")];
  const { sample, target, previous, next, place } = controls.elements;
  const numbers = samples.map((section) => section.dataset.sample);
  let shown = 0;

  const show = () => {
    samples.forEach((section, i) => (section.hidden = i !== shown));
    for (const cell of cells) {
      cell.hidden = cell.dataset.target !== target.value || !methods[cell.dataset.method].checked;
    }
    for (const key of document.querySelectorAll("[data-key]")) key.hidden = !methods[key.dataset.key].checked;
    sample.value = numbers[shown];
    sample.setCustomValidity("");
    previous.disabled = shown === 0;
    next.disabled = shown === samples.length - 1;
    place.value = `${shown + 1} of ${samples.length}`;
  };

  const remember = () => {
    const state = new URLSearchParams({ sample: numbers[shown], target: target.selectedOptions[0].text });
    for (const method of methods) if (method.checked) state.append("method", method.value);
    history.replaceState(null, "", `#${state}`);
  };

  const recall = () => {
    const state = new URLSearchParams(location.hash.slice(1));
    const names = state.getAll("method").filter((name) => methods.some((method) => method.value === name));
    shown = Math.max(0, numbers.indexOf(state.get("sample")));
    target.selectedIndex = Math.max(0, [...target.options].findIndex((option) => option.text === state.get("target")));
    for (const method of methods) method.checked = !names.length || names.includes(method.value);
    show();
  };

  const choose = (position) => {
    shown = Math.min(Math.max(position, 0), samples.length - 1);
    show();
    remember();
  };

  previous.addEventListener("click", () => choose(shown - 1));
  next.addEventListener("click", () => choose(shown + 1));
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.addEventListener("change", (event) => {
    if (event.target === sample) {
      const position = numbers.indexOf(String(Number(sample.value)));
      if (position >= 0 && sample.value !== "") return choose(position);
      sample.setCustomValidity("There is no sample of this number on the page.");
      return sample.reportValidity();
    }
    if (event.target.name === "method" && !methods.some((method) => method.checked)) event.target.checked = true;
    choose(shown);
  });
  document.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const typing = event.target.matches("select, input[type=number]");
    if (!step || typing || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    choose(shown + step);
  });
  window.addEventListener("hashchange", recall);
  controls.hidden = false;
  document.getElementById("unscripted").hidden = true;
  recall();
})();
