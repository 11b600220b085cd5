"use strict";
// Tabs, filters, keys and links of a report. Without scripts, all of it is one long page.
(() => {
  const one = (selector) => document.querySelector(selector);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const form = one(".filters");
  const cards = all("article");
  const tabs = all("nav a");
  const sections = all("main > section");
  const rules = all(".counts button");
  const texts = new Map(); // of cards, once somebody searches
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
      ? `${cards.length} finding${cards.length === 1 ? "" : "s"}`
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
    card.scrollIntoView({ block: "start" });
    // Cards that come into view get their true height: what is above it may have moved it.
    requestAnimationFrame(() => card.scrollIntoView({ block: "start" }));
    card.focus({ preventScroll: true });
  }

  function step(by) {
    if (!shown.length) return;
    let place = shown.indexOf(current);
    const box = current && current.getBoundingClientRect();
    const isOut = !box || box.bottom < 0 || box.top > innerHeight;
    if (place < 0 || isOut) {
      // From what is on the screen, if somebody has scrolled away.
      place = shown.findIndex((card) => card.getBoundingClientRect().bottom > 40);
      if (place < 0) place = shown.length - 1;
      by = by > 0 ? 0 : by;
    }
    const next = shown[Math.min(Math.max(place + by, 0), shown.length - 1)];
    history.replaceState(null, "", `#${next.id}`);
    show(next);
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
    const view = event.target.closest(".view");
    if (view && view.closest("article")) enlarge(view);
    else if (event.target.closest("dialog") && !event.target.closest("button")) one("#zoom").close();
  });
  addEventListener("hashchange", followLink);

  const keys = {
    j: () => step(1),
    ArrowRight: () => step(1),
    k: () => step(-1),
    ArrowLeft: () => step(-1),
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

  filter();
  followLink();
})();
