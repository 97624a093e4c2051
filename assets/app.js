// What pages do beyond reading. Everything here can be missing.
"use strict";

(() => {
  // The server is gone, or the session has ended: said at the top, until an answer comes again.
  const away = document.getElementById("away");
  const tell = (text, link) => {
    if (!away) return;
    away.textContent = text;
    if (link) {
      const anchor = document.createElement("a");
      anchor.href = link;
      anchor.textContent = "Log in";
      away.append(" ", anchor);
    }
    away.hidden = false;
  };
  let hasEnded = false;
  const here = () => "/login?next=" + encodeURIComponent(location.pathname + location.search);
  document.addEventListener("htmx:sendError", () => tell("The server cannot be reached. Trying again…"));
  document.addEventListener("htmx:timeout", () => tell("The server does not answer. Trying again…"));
  document.addEventListener("htmx:responseError", (event) => {
    const status = event.detail.xhr.status;
    if (status === 401) {
      hasEnded = true;
      tell("Your session has ended.", here());
    }
    if (status === 429) tell("Too many calls. Trying again…");
    else if (status >= 500) tell("The server has trouble. Trying again…");
  });
  document.addEventListener("htmx:afterRequest", (event) => {
    if (!event.detail.successful) return;
    hasEnded = false;
    if (away) away.hidden = true;
  });
  // Pages without live parts look now and then whether the server is there.
  const look = async () => {
    if (document.hidden) return;
    try {
      await fetch("/healthz", { cache: "no-store", signal: AbortSignal.timeout(5000) });
      if (away && away.dataset.looked) {
        away.hidden = true;
        delete away.dataset.looked;
      }
    } catch {
      tell("The server cannot be reached. Trying again…");
      if (away) away.dataset.looked = "1";
    }
  };
  if (!document.getElementById("live")) setInterval(look, 5000);
  // Hidden tabs ask for nothing, nor does nobody; the log stays where one reads it.
  document.addEventListener("htmx:beforeRequest", (event) => {
    if ((document.hidden || hasEnded) && event.detail.elt.id === "live") event.preventDefault();
  });
  let scroll = null;
  let open = [];
  let focused = null;
  document.addEventListener("htmx:beforeSwap", () => {
    const log = document.querySelector(".log");
    scroll = log && log.scrollTop + log.clientHeight < log.scrollHeight - 8 ? log.scrollTop : null;
    open = [...document.querySelectorAll("details[open][id]")].map((details) => details.id);
    const at = document.activeElement;
    focused = at && at !== document.body && at.closest("main") ? at.id || at.getAttribute("href") : null;
  });
  const toEnd = () => {
    const log = document.querySelector(".log");
    if (log) log.scrollTop = scroll === null ? log.scrollHeight : scroll;
  };
  document.addEventListener("htmx:afterSwap", () => {
    toEnd();
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    // Whoever walks by keys stays where they are.
    if (focused && document.activeElement === document.body) {
      const name = CSS.escape(focused);
      document.querySelector(`main #${name}, main [href="${name}"]`)?.focus({ preventScroll: true });
    }
  });
  toEnd();

  // A form is sent once, to a server that is there: what was typed is not lost to one that is gone. What is grave is asked for.
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.method !== "post") return;
    if (form.dataset.sure) {
      delete form.dataset.sure;
      for (const button of form.querySelectorAll("button")) setTimeout(() => (button.disabled = true), 0);
      return;
    }
    event.preventDefault();
    if (form.dataset.asking) return;
    const question = form.dataset.ask;
    if (question && !window.confirm(question)) return;
    form.dataset.asking = "1";
    fetch("/healthz", { cache: "no-store", signal: AbortSignal.timeout(5000) })
      .then(() => {
        form.dataset.sure = "1";
        form.requestSubmit(event.submitter);
      })
      .catch(() => {
        tell("The server cannot be reached: nothing was sent, and nothing is lost.");
        if (away) away.dataset.looked = "1";
      })
      .finally(() => delete form.dataset.asking);
  });
  // Back to a page that was kept: its buttons work again.
  window.addEventListener("pageshow", () => {
    for (const button of document.querySelectorAll("form button:disabled")) button.disabled = false;
  });

  // The set-up link carries its token where no server sees it.
  const token = document.getElementById("f-token");
  if (token && location.pathname === "/setup" && location.hash.length > 1) {
    token.value = location.hash.slice(1);
    history.replaceState(null, "", "/setup");
  }

  // Charts.
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const size = (bytes) => {
    let unit = 0;
    while (bytes >= 1024 && unit < units.length - 1) {
      bytes /= 1024;
      unit += 1;
    }
    return (bytes >= 100 || unit === 0 ? Math.round(bytes) : Math.round(bytes * 10) / 10) + " " + units[unit];
  };
  const time = (seconds) => {
    if (seconds < 60) return Math.round(seconds * 10) / 10 + " s";
    if (seconds < 3600) return Math.round(seconds / 6) / 10 + " min";
    return Math.round(seconds / 360) / 10 + " h";
  };
  const day = (at) => new Date(at * 1000).toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
  const plots = [];
  const draw = () => {
    for (const plot of plots.splice(0)) plot.destroy();
    if (!window.uPlot) return;
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    for (const box of document.querySelectorAll("[data-chart]")) {
      const data = JSON.parse(box.dataset.chart);
      for (const place of box.querySelectorAll("[data-plot]")) {
        const isSize = place.dataset.plot === "bytes";
        const say = isSize ? size : time;
        const axis = { stroke: color("--faint"), grid: { stroke: color("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
        const bars = uPlot.paths.bars({ size: [0.7, 14], radius: 0.2 });
        plots.push(
          new uPlot(
            {
              width: Math.max(place.clientWidth, 200),
              height: 170,
              padding: [8, 4, 0, 0],
              legend: { show: false },
              cursor: { y: false, points: { show: false }, drag: { x: false } },
              scales: { y: { range: (_, low, high) => [0, Math.max(high * 1.1, 1)] } },
              axes: [{ ...axis, space: 64, values: (_, ticks) => ticks.map(day) }, { ...axis, size: 64, values: (_, ticks) => ticks.map(say) }],
              series: [{}, isSize
                ? { paths: bars, fill: color("--accent-soft"), stroke: color("--accent"), width: 1, points: { show: false } }
                : { stroke: color("--accent"), width: 2, spanGaps: true, points: { show: true, size: 5, fill: color("--accent") } }],
              hooks: {
                setCursor: [(plot) => {
                  const at = plot.cursor.idx;
                  const value = at == null ? null : plot.data[1][at];
                  const date = at == null ? "" : day(plot.data[0][at]);
                  place.title = value == null ? date : date + ": " + say(value);
                }],
              },
            },
            [data.at, data[place.dataset.plot]],
            place,
          ),
        );
      }
    }
  };
  draw();
  let waiting;
  window.addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(draw, 150);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
