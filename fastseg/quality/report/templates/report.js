"use strict";
// Tabs, filters, keys, links and pictures of a report, and what somebody accepts on it.
// Without scripts, all of it is one long page without pictures. The text of the pictures
// stands behind this script, so that all but them works before it is read.
(() => {
  const one = (selector) => document.querySelector(selector);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const form = one(".filters");
  const cards = all("article");
  const tabs = all("nav a");
  const sections = all("main > section");
  const rules = all(".counts button");
  const texts = new Map(); // of cards, once somebody searches
  const waiting = new Set(); // cards whose pictures are not read yet
  const marks = readMarks(); // what was accepted here, or no more: by identity
  let keeps = true; // whether the browser keeps the marks
  let isSaved = true;
  let shown = cards;
  let current = null;

  document.body.classList.add("tabs");
  // Else the browser would scroll past the header to the section that a link names.
  for (const section of sections) section.id = `${section.id}-tab`;
  // A browser may fill in a form as it was before a reload.
  form.reset();
  form.elements.rule.value = "";
  if (matchMedia("(max-width: 900px)").matches) one(".filters details").open = false;

  function textOf(card) {
    if (!texts.has(card)) texts.set(card, card.textContent.toLowerCase());
    return texts.get(card);
  }

  // Makes elements of the pictures of a card and of their legend. They stay: a page that
  // is looked through has them all.
  function fill(card) {
    const text = document.getElementById(`of-${card.id}`);
    if (text) {
      const parts = document.createElement("template");
      parts.innerHTML = text.textContent;
      const legend = parts.content.querySelector(".legend");
      card.querySelector(".facts dl").after(legend);
      card.querySelector(".pictures").replaceChildren(parts.content);
      text.remove();
    } else if (document.readyState === "loading") waiting.add(card);
  }

  function fillWaiting() {
    const some = [...waiting];
    waiting.clear();
    some.forEach(fill);
    if (document.readyState === "loading") requestAnimationFrame(fillWaiting);
  }

  function readMarks() {
    try {
      return new Map(JSON.parse(localStorage.getItem(keyOfMarks()) || "[]"));
    } catch {
      return new Map();
    }
  }

  function writeMarks() {
    isSaved = false;
    try {
      localStorage.setItem(keyOfMarks(), JSON.stringify([...marks]));
    } catch {
      keeps = false;
    }
    one("#forgetful").hidden = keeps;
  }

  function keyOfMarks() {
    return `fastseg accepted ${one("[data-store]").dataset.store}`;
  }

  function isAccepted(card) {
    return card.dataset.accepted === "1";
  }

  function mark(card, accepted) {
    card.dataset.accepted = accepted ? "1" : "0";
    card.classList.toggle("accepted", accepted);
    card.querySelector(".accept").textContent = accepted ? "undo" : "accept";
  }

  // Accepts a finding, or does so no more. If filters hide it now, the next one is shown.
  function toggle(card) {
    if (!card) return;
    const place = shown.indexOf(card);
    const wasCurrent = card === current;
    mark(card, !isAccepted(card));
    marks.set(card.id, isAccepted(card));
    writeMarks();
    count();
    filter();
    if (card.hidden && wasCurrent && shown.length) {
      goTo(shown[Math.min(place, shown.length - 1)]);
    }
  }

  function plural(number, name) {
    return `${number} ${name}${number === 1 ? "" : "s"}`;
  }

  // Says how many findings there are, and how many of them are accepted.
  function count() {
    const accepted = cards.filter(isAccepted).length;
    const left = cards.filter((card) => !isAccepted(card));
    const parts = ["error", "warning", "note"]
      .map((name) => [left.filter((card) => card.dataset.severity === name).length, name])
      .filter(([number]) => number)
      .map(([number, name]) => plural(number, name));
    if (accepted) parts.push(`${accepted} accepted`);
    if (cards.length) one("#totals").textContent = parts.join(", ");
    const { options } = form.elements.accepted;
    options[1].textContent = `not accepted (${left.length})`;
    options[2].textContent = `accepted (${accepted})`;
    one("#save").hidden = !accepted && !marks.size;
    one("#save").textContent = `save accepted.csv (${accepted})`;
  }

  // The table that `fastseg check --accept` reads.
  function save() {
    if (one("#save").hidden) return;
    const rows = cards.filter(isAccepted).map((card) => card.dataset.row);
    const table = new Blob([one("[data-header]").dataset.header, ...rows], { type: "text/csv" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(table);
    link.download = "accepted.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    isSaved = true;
  }

  function valueOf(name) {
    return form.elements[name] ? form.elements[name].value : "";
  }

  function filter() {
    const words = valueOf("text").toLowerCase().split(/\s+/).filter(Boolean);
    const severities = new Set(
      all("input[name=severity]").filter((box) => box.checked).map((box) => box.value)
    );
    const [patient, klass, rule, accepted] =
      ["patient", "class", "rule", "accepted"].map(valueOf);
    shown = cards.filter((card) => {
      const { dataset } = card;
      const isShown =
        severities.has(dataset.severity) &&
        (!rule || dataset.rule === rule) &&
        (!accepted || dataset.accepted === accepted) &&
        (!patient || dataset.patients.includes(` ${patient} `)) &&
        (!klass || dataset.classes.includes(` ${klass} `)) &&
        words.every((word) => textOf(card).includes(word));
      card.hidden = !isShown;
      return isShown;
    });
    for (const button of rules) {
      button.setAttribute("aria-pressed", button.dataset.rule === rule);
    }
    const isAll = shown.length === cards.length;
    one("#status").textContent = isAll
      ? plural(cards.length, "finding")
      : `${shown.length} of ${cards.length} findings`;
    one("#clear").hidden = isAll;
    one("#none").hidden = shown.length > 0 || cards.length === 0;
    if (current && current.hidden) select(null);
  }

  function clear() {
    form.reset();
    form.elements.rule.value = "";
    filter();
  }

  function select(card) {
    if (current) current.classList.remove("current");
    current = card;
    if (card) card.classList.add("current");
  }

  function show(card) {
    openTab("findings");
    if (card.hidden) clear();
    select(card);
    fill(card);
    card.scrollIntoView({ block: "start" });
    // Cards that come into view get their true height: what is above it may have moved it.
    requestAnimationFrame(() => card.scrollIntoView({ block: "start" }));
    card.focus({ preventScroll: true });
  }

  function goTo(card) {
    history.replaceState(null, "", `#${card.id}`);
    show(card);
  }

  // Whether the finding that keys are about is on the screen.
  function isInView(card) {
    const box = card && card.getBoundingClientRect();
    return box && box.bottom > 0 && box.top < innerHeight;
  }

  function step(by) {
    if (!shown.length) return;
    let place = shown.indexOf(current);
    if (place < 0 || !isInView(current)) {
      // From what is on the screen, if somebody has scrolled away.
      place = shown.findIndex((card) => card.getBoundingClientRect().bottom > 40);
      if (place < 0) place = shown.length - 1;
      by = by > 0 ? 0 : by;
    }
    goTo(shown[Math.min(Math.max(place + by, 0), shown.length - 1)]);
  }

  function openTab(name) {
    for (const section of sections) {
      section.classList.toggle("open", section.id === `${name}-tab`);
    }
    for (const tab of tabs) {
      if (tab.hash === `#${name}`) tab.setAttribute("aria-current", "page");
      else tab.removeAttribute("aria-current");
    }
  }

  function followLink() {
    const name = decodeURIComponent(location.hash.slice(1));
    const card = cards.find((card) => card.id === name);
    if (card) show(card);
    else {
      openTab(tabs.some((tab) => tab.hash === `#${name}`) ? name : "findings");
      scrollTo(0, 0);
    }
  }

  function enlarge(view) {
    const copy = view.cloneNode(true);
    const picture = copy.querySelector("svg");
    const [width, height] = ["width", "height"].map((name) => picture.getAttribute(name));
    const scale = Math.min((innerWidth * 0.94) / width, (innerHeight * 0.94) / height);
    picture.setAttribute("width", width * scale);
    picture.setAttribute("height", height * scale);
    one("#zoom div").replaceChildren(copy);
    one("#zoom").showModal();
  }

  // Chromium tells of an option that a program chooses by the second one only.
  form.addEventListener("input", filter);
  form.addEventListener("change", filter);
  // After a choice by mouse, keys are about findings again.
  let isMouse = false;
  form.addEventListener("pointerdown", () => (isMouse = true));
  form.addEventListener("keydown", () => (isMouse = false));
  form.addEventListener("change", ({ target }) => {
    if (isMouse && target.matches("select")) target.blur();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  one("#clear").addEventListener("click", clear);
  for (const button of rules) {
    button.addEventListener("click", () => {
      const { rule } = form.elements;
      rule.value = rule.value === button.dataset.rule ? "" : button.dataset.rule;
      filter();
      scrollTo(0, 0);
    });
  }
  document.addEventListener("click", (event) => {
    if (event.target.matches(".accept")) {
      select(event.target.closest("article"));
      toggle(current);
    }
    const view = event.target.closest(".view");
    if (view && view.closest("article")) enlarge(view);
    else if (event.target.closest("dialog") && !event.target.closest("button")) one("#zoom").close();
  });
  one("#save").addEventListener("click", save);
  addEventListener("hashchange", followLink);
  addEventListener("beforeprint", () => shown.forEach(fill));
  addEventListener("beforeunload", (event) => {
    if (!keeps && !isSaved) event.preventDefault();
  });

  const keys = {
    j: () => step(1),
    ArrowRight: () => step(1),
    k: () => step(-1),
    ArrowLeft: () => step(-1),
    a: () => toggle(isInView(current) && current),
    s: save,
    c: () => document.body.classList.toggle("bare"),
    "/": () => {
      openTab("findings");
      one(".filters details").open = true;
      form.elements.text.focus();
    },
    Escape: clear,
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const { key, target } = event;
    if (one("#zoom").open && key !== "c") {
      if (key === "Escape" || !keys[key] || key === "/") return;
      one("#zoom").close();
    }
    const isTyping = target.matches("input[type=search], select");
    if (isTyping) {
      if (key === "Escape") target.blur();
      return;
    }
    if (!Object.hasOwn(keys, key)) return;
    event.preventDefault();
    keys[key]();
  });

  for (const card of cards) {
    if (marks.has(card.id)) mark(card, marks.get(card.id));
  }
  count();
  filter();
  followLink();
  // Before they are seen: two screens away.
  const observer = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        if (isIntersecting) fill(target), observer.unobserve(target);
      }
    },
    { rootMargin: "200%" }
  );
  for (const card of cards) observer.observe(card);
  requestAnimationFrame(fillWaiting);
  document.addEventListener("DOMContentLoaded", fillWaiting);
  performance.mark("ready");
})();
