// What the page can do beyond its links and forms: keys, and a list that stays fresh. Without it everything works.
"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const remembered = (() => { try { return localStorage.getItem("grafter.keys") !== "off"; } catch { return true; } })();
  let letters = remembered;
  const dialog = document.getElementById("keys");
  const choice = document.getElementById("keys-on");
  if (choice) {
    choice.checked = letters;
    choice.addEventListener("change", () => {
      letters = choice.checked;
      try { localStorage.setItem("grafter.keys", letters ? "on" : "off"); } catch { /* remembered for this page only */ }
    });
  }

  const writing = (target) => target instanceof HTMLElement &&
    (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName)) && target.type !== "checkbox";

  const rows = () => [...document.querySelectorAll("a.row")].filter((row) => row.offsetParent !== null);
  const step = (by) => {
    const all = rows();
    if (!all.length) return false;
    const table = document.activeElement?.closest("table");
    const here = all.indexOf(document.activeElement);
    if (here < 0 && document.activeElement !== document.body && document.activeElement?.id !== "main") return false;
    const next = all[here < 0 ? (by > 0 ? 0 : all.length - 1) : here + by];
    if (!next || (table && next.closest("table") !== table)) return false;
    next.focus();
    return true;
  };

  let problem = -1;
  const toProblem = (by) => {
    const all = [...document.querySelectorAll(".problems > li")];
    if (!all.length) return;
    problem = (problem + by + all.length) % all.length;
    if (problem < 0) problem = 0;
    all[problem].focus();
    all[problem].scrollIntoView({ block: "center" });
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || writing(event.target)) return;
    if (dialog?.open) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      if (step(event.key === "ArrowDown" ? 1 : -1)) event.preventDefault();
      return;
    }
    if (!letters && event.key !== "?") return;
    if (event.key === "/") { event.preventDefault(); document.getElementById("q")?.focus(); }
    else if (event.key === "?" && dialog) { event.preventDefault(); dialog.showModal(); }
    else if (event.key === "n") toProblem(1);
    else if (event.key === "p") toProblem(problem < 0 ? 0 : -1);
  });

  // A list that shows the newest calls, and the page of a call that is running, are asked for again while somebody
  // looks; what has the focus, or is being selected, is left alone.
  const fresh = document.querySelector("#calls[data-live=yes]") ? "#calls" : document.body.dataset.live === "yes" ? "#main" : "";
  if (fresh) {
    let quiet = 5000;
    const again = async () => {
      const part = document.querySelector(fresh);
      const busy = document.hidden || dialog?.open || !part || (part !== document.activeElement && part.contains(document.activeElement)) || String(getSelection()) !== "";
      if (!busy) {
        try {
          const answer = await fetch(location.href, { headers: { "X-Refresh": "1" }, credentials: "same-origin" });
          const text = answer.ok && !answer.redirected ? await answer.text() : "";
          const page = text ? new DOMParser().parseFromString(text, "text/html") : null;
          const next = page?.querySelector(fresh);
          if (next && next.innerHTML !== part.innerHTML) part.replaceChildren(...document.importNode(next, true).childNodes);
          if (fresh === "#main" && page && page.body.dataset.live !== "yes") return;
          quiet = answer.ok ? 5000 : Math.min(quiet * 2, 60000);
        } catch { quiet = Math.min(quiet * 2, 60000); }
      }
      setTimeout(again, quiet);
    };
    setTimeout(again, quiet);
  }
})();
