// What the server's pages can't do alone: live updates, the drawer, questions before actions, charts. No state beyond the page.
"use strict";

(() => {
  const STREAM_RETRY_MS = 3000;
  const POLL_MS = 5000;
  const GATHER_MS = 200;
  // A page is a whole rendering to the server: at most so often, however much happens.
  const BETWEEN_UPDATES_MS = 800;
  const DOUBLE_CLICK_MS = 1000;
  // Marks what the page asks by itself.
  const REFRESH = "X-Console-Refresh";

  const byId = (id) => document.getElementById(id);
  const script = document.currentScript;

  // ---- What an action says -------------------------------------------------------------------------------------------------------

  function say({ message, link, linkText }) {
    const line = document.createElement("p");
    line.className = "alert good";
    line.append(message);
    if (link) {
      const anchor = document.createElement("a");
      anchor.href = link;
      anchor.textContent = linkText || "查看";
      line.append("　", anchor);
    }
    const close = document.createElement("button");
    close.type = "button";
    close.className = "close";
    close.dataset.dismiss = "";
    close.setAttribute("aria-label", "关闭提示");
    close.textContent = "×";
    line.append(close);
    flash().replaceChildren(line);
  }

  // An open drawer covers the page and makes the rest of it inert: then it is told there.
  function flash() {
    const drawer = byId("drawer");
    if (!drawer?.open) return byId("flash");
    let own = byId("drawer-flash");
    if (!own) {
      own = document.createElement("div");
      own.id = "drawer-flash";
      own.setAttribute("role", "status");
      drawer.insertBefore(own, byId("drawer-body"));
    }
    return own;
  }

  function done(told) {
    say(told);
    for (const place of document.querySelectorAll("[data-clear-on-done]")) place.replaceChildren();
    for (const form of byId("live")?.querySelectorAll("form") ?? []) form.reset();
    refresh();
    refreshDrawer();
  }

  let actionsUnderWay = 0;
  let lastAsked = "";
  let lastEndedAt = 0;

  // An action is asked for once, however often its button is clicked. The request itself is listened to, not htmx's events: those are lost
  // with an element that was exchanged meanwhile.
  document.addEventListener("htmx:beforeRequest", (event) => {
    const { elt, xhr, requestConfig } = event.detail;
    if (requestConfig.verb !== "post") return;
    const asked = `${requestConfig.path}?${new URLSearchParams(requestConfig.formData)}`;
    if (elt.dataset.busy || (asked === lastAsked && performance.now() - lastEndedAt < DOUBLE_CLICK_MS)) { event.preventDefault(); return; }
    lastAsked = asked;
    const buttons = elt.matches("form") ? [...elt.querySelectorAll("button")] : [elt];
    elt.dataset.busy = "yes";
    for (const button of buttons) button.setAttribute("aria-disabled", "true");
    actionsUnderWay += 1;
    xhr.addEventListener("loadend", () => {
      actionsUnderWay -= 1;
      lastEndedAt = performance.now();
      delete elt.dataset.busy;
      for (const button of buttons) button.removeAttribute("aria-disabled");
      const told = JSON.parse(xhr.getResponseHeader("HX-Trigger") || "{}")["console:done"];
      if (told) done(told);
      catchUp();
    });
  });

  // Errors are told where actions are told of, whatever was to be exchanged.
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { xhr, requestConfig } = event.detail;
    if (requestConfig.headers[REFRESH] && mustWait()) {
      event.detail.shouldSwap = false;
      if (event.detail.target.id === "live") refreshAgain = true;
      else drawerWaits = true;
      return;
    }
    if (xhr.status >= 400) {
      event.detail.shouldSwap = false;
      if (isQuiet(event)) return;
      const told = flash();
      if ((xhr.getResponseHeader("Content-Type") || "").startsWith("text/html")) told.innerHTML = xhr.responseText;
      else told.textContent = `请求失败（${xhr.status}）`;
    }
  });
  document.addEventListener("htmx:sendError", (event) => {
    if (isQuiet(event)) return;
    const isAction = event.detail.requestConfig.verb === "post";
    const told = isAction ? "连接中断，不确定操作是否已送达：恢复后请先查看结果，再决定是否重做" : "连接不上服务，请稍后再试";
    flash().innerHTML = `<p class="alert error" role="alert">${told}</p>`;
  });
  // The page's own updates: 「重连中」 says it already.
  const isQuiet = (event) => event.detail.target?.id === "live";

  // ---- The parts of the page that live ---------------------------------------------------------------------------------------------

  let refreshing = false;
  let refreshAgain = false;
  let drawerWaits = false;

  // An element that is exchanged while it asks for something, or while somebody is asked about it, would lose that.
  const mustWait = () => actionsUnderWay > 0 || isPressing || byId("confirm")?.open;
  let isPressing = false;
  document.addEventListener("pointerdown", () => { isPressing = true; });
  for (const end of ["pointerup", "pointercancel"]) {
    // After the click that comes of it.
    document.addEventListener(end, () => setTimeout(() => { isPressing = false; catchUp(); }));
  }

  function catchUp() {
    if (mustWait()) return;
    if (refreshAgain) { refreshAgain = false; refresh(); }
    if (drawerWaits) { drawerWaits = false; refreshDrawer(); }
  }

  async function refresh() {
    const live = byId("live");
    if (!live) return;
    if (mustWait()) { refreshAgain = true; return; }
    if (refreshing) { refreshAgain = true; return; }
    // Nothing is taken away from under somebody's hands.
    if (live.contains(document.activeElement) && document.activeElement.matches("input:not([type=checkbox]), textarea, select")) {
      document.activeElement.addEventListener("blur", () => refresh(), { once: true });
      return;
    }
    refreshing = true;
    try {
      await htmx.ajax("GET", location.href, { target: "#live", select: "#live", swap: "outerHTML", headers: { [REFRESH]: "yes" } });
    } catch { /* the next one comes */ } finally {
      refreshing = false;
      catchUp();
    }
  }

  // What somebody has done on the page until the moment at which its part is exchanged.
  let kept = null;
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (event.detail.requestConfig.headers[REFRESH] && event.detail.shouldSwap) kept = keep(event.detail.target);
  });
  document.addEventListener("htmx:afterSwap", () => {
    if (kept) restore(kept);
    kept = null;
  });

  const unfoldable = (part) => [...part.querySelectorAll("details")].map((details, number) => [details.id || details.dataset.keep || number, details]);

  function keep(live) {
    return {
      id: live.id,
      written: [...live.querySelectorAll("input[id]:not([type=checkbox]), textarea[id]")]
        .filter((field) => field.value !== field.defaultValue)
        .map((field) => [field.id, field.value]),
      checked: [...live.querySelectorAll("input:checked")].map((box) => `${box.name}=${box.value}`),
      open: unfoldable(live).filter(([, details]) => details.open).map(([name]) => name),
      focused: live.contains(document.activeElement) ? document.activeElement.id || document.activeElement.getAttribute("href") : null,
      scrolled: [...live.querySelectorAll(".table-scroll")].map((place) => place.scrollLeft),
    };
  }

  function restore({ id, written, checked, open, focused, scrolled }) {
    const live = byId(id);
    if (!live) return;
    for (const box of live.querySelectorAll("input[type=checkbox]")) {
      if (checked.includes(`${box.name}=${box.value}`)) box.checked = true;
    }
    for (const [field, value] of written) if (byId(field)) byId(field).value = value;
    countChosen();
    for (const [name, details] of unfoldable(live)) if (open.includes(name)) details.open = true;
    [...live.querySelectorAll(".table-scroll")].forEach((place, number) => { place.scrollLeft = scrolled[number] || 0; });
    if (focused && document.activeElement === document.body) {
      (byId(focused) || live.querySelector(`a[href="${CSS.escape(focused)}"]`) || [...live.querySelectorAll("a")].find((a) => a.getAttribute("href") === focused))?.focus({ preventScroll: true });
    }
  }

  function refreshDrawer() {
    if (mustWait()) { drawerWaits = true; return; }
    const body = byId("drawer-body");
    const shown = body?.querySelector("[data-drawer-path]");
    if (byId("drawer")?.open && shown) htmx.ajax("GET", shown.dataset.drawerPath, { target: "#drawer-body", swap: "innerHTML", headers: { [REFRESH]: "yes" } });
  }

  let stream = null;
  let polling = null;
  let gathering = null;
  let updatedAt = -BETWEEN_UPDATES_MS;

  function show(state, text) {
    const place = byId("live-state");
    if (place.textContent === text) return;
    place.className = `live-state ${state}`;
    place.textContent = text;
  }

  function connect() {
    const place = byId("live-state");
    if (!place?.dataset.stream) return;
    stream = new EventSource(place.dataset.stream);
    stream.onopen = () => {
      show("on", "实时");
      if (polling) { clearInterval(polling); polling = null; refresh(); }
    };
    stream.onerror = () => {
      show("off", "重连中");
      polling ||= setInterval(refresh, POLL_MS);
      // The browser comes back by itself from a lost connection, but not from an answer that is no stream.
      if (stream.readyState === EventSource.CLOSED) setTimeout(connect, STREAM_RETRY_MS);
    };
    for (const type of ["alert_created", "alert_updated", "cache_updated", "job_updated", "prewarm_progress", "reset"]) {
      stream.addEventListener(type, () => came(type));
    }
  }

  // Bursts are shown together.
  function came(type) {
    const wanted = (byId("live")?.dataset.live || "").split(" ");
    if (type !== "reset" && !wanted.includes(type)) return;
    gathering ||= setTimeout(() => {
      gathering = null;
      updatedAt = performance.now();
      refresh();
      refreshDrawer();
    }, Math.max(GATHER_MS, updatedAt + BETWEEN_UPDATES_MS - performance.now()));
  }

  // ---- The drawer, and questions ---------------------------------------------------------------------------------------------------

  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target.id !== "drawer-body") return;
    const drawer = byId("drawer");
    if (!event.detail.requestConfig.headers[REFRESH]) byId("drawer-flash")?.replaceChildren();
    if (!drawer.open) drawer.showModal();
  });

  // Closed before it came: then it is not wanted any more.
  let drawerRequest = null;
  document.addEventListener("htmx:beforeSend", (event) => {
    if (event.detail.target?.id === "drawer-body") drawerRequest = event.detail.xhr;
  });
  byId("drawer")?.addEventListener("close", () => drawerRequest?.abort());

  document.addEventListener("htmx:confirm", (event) => {
    if (!event.detail.question) return;
    event.preventDefault();
    const dialog = byId("confirm");
    byId("confirm-text").textContent = event.detail.question;
    dialog.returnValue = "no";
    dialog.addEventListener("close", () => {
      if (dialog.returnValue === "yes") event.detail.issueRequest(true);
      catchUp();
    }, { once: true });
    dialog.showModal();
    dialog.querySelector('[value="yes"]').focus();
  });

  document.addEventListener("click", (event) => {
    const target = event.target.closest("[data-close], [data-dismiss], #confirm button, .menu-button, [data-choose-all]");
    if (!target) {
      // Beside the drawer.
      if (event.target.id === "drawer") event.target.close();
      return;
    }
    if (target.matches("[data-close]")) target.closest("dialog").close();
    else if (target.matches("[data-dismiss]")) target.parentElement.remove();
    else if (target.matches("#confirm button")) byId("confirm").close(target.value);
    else if (target.matches(".menu-button")) {
      const isOpen = byId("menu").classList.toggle("open");
      target.setAttribute("aria-expanded", String(isOpen));
    } else if (target.matches("[data-choose-all]")) {
      for (const box of document.querySelectorAll(`input[name="${target.dataset.chooseAll}"]`)) box.checked = target.checked;
      countChosen();
    }
  });

  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-submit-on-change]")) event.target.form.requestSubmit();
    if (event.target.matches("[data-shows]")) showFields();
    countChosen();
  });

  // Buttons that work on chosen rows say how many these are.
  function countChosen() {
    for (const button of document.querySelectorAll("[data-counts]")) {
      const chosen = document.querySelectorAll(`input[name="${button.dataset.counts}"]:checked`).length;
      button.disabled = chosen === 0;
      button.querySelector(".count").textContent = chosen ? `（${chosen}）` : "";
    }
  }

  // A form's fields that belong to one choice: `data-for="note_created consumption"`.
  function showFields() {
    for (const choice of document.querySelectorAll("[data-shows]")) {
      if (choice.type === "radio" && !choice.checked) continue;
      for (const field of choice.form.querySelectorAll("[data-for]")) {
        field.hidden = !field.dataset.for.split(" ").includes(choice.value);
        for (const input of field.querySelectorAll("input, textarea, select")) input.disabled = field.hidden;
      }
    }
  }

  // ---- Charts ------------------------------------------------------------------------------------------------------------------------

  let echartsLoading = null;

  function loadEcharts() {
    echartsLoading ||= new Promise((resolve, reject) => {
      const tag = document.createElement("script");
      tag.src = script.dataset.echarts;
      tag.onload = resolve;
      tag.onerror = reject;
      document.head.append(tag);
    });
    return echartsLoading;
  }

  async function drawCharts() {
    const places = [...document.querySelectorAll("[data-chart]")].filter((place) => !place.dataset.drawn);
    if (!places.length) return;
    await loadEcharts();
    for (const place of places) {
      if (!place.isConnected) continue;
      place.dataset.drawn = "yes";
      const data = JSON.parse(place.dataset.chart);
      const chart = echarts.init(place, null, { renderer: "canvas" });
      chart.setOption(data.kind === "trend" ? trend(data, place.clientWidth) : shares(data), true);
      new ResizeObserver(() => chart.resize()).observe(place);
    }
    // Charts of parts that were exchanged.
    for (const place of drawn) if (!place.isConnected) { echarts.getInstanceByDom(place)?.dispose(); drawn.delete(place); }
    places.forEach((place) => drawn.add(place));
  }
  const drawn = new Set();

  // Tooltips as drawn text: HTML ones would need styles of their own, which the page's policy forbids.
  const base = { animation: false, textStyle: { fontFamily: "inherit" } };

  function trend({ days, bars, lines }, width) {
    return {
      ...base,
      tooltip: { trigger: "axis", renderMode: "richText" },
      legend: { top: 0, type: "scroll" },
      grid: { left: 8, right: 8, top: 40, bottom: 4, containLabel: true },
      xAxis: { type: "category", data: days },
      yAxis: [
        { type: "value", minInterval: 1, name: width > 480 ? "次" : "" },
        { type: "value", name: width > 480 ? "元" : "", splitLine: { show: false } },
      ],
      series: [
        ...bars.map((bar) => ({ name: bar.name, type: "bar", stack: "calls", data: bar.values, barMaxWidth: 36, itemStyle: { color: bar.color } })),
        ...lines.map((line) => ({ name: line.name, type: "line", yAxisIndex: 1, data: line.values, symbolSize: 6, color: line.color })),
      ],
    };
  }

  function shares({ items }) {
    return {
      ...base,
      tooltip: { trigger: "item", renderMode: "richText" },
      grid: { left: 8, right: 48, top: 4, bottom: 4, containLabel: true },
      xAxis: { type: "value", minInterval: 1, show: false },
      yAxis: { type: "category", inverse: true, data: items.map((item) => item.name), axisTick: { show: false }, axisLine: { show: false } },
      series: [{ type: "bar", data: items.map((item) => item.value), barMaxWidth: 18, color: "#1677ff", label: { show: true, position: "right" } }],
    };
  }

  document.addEventListener("htmx:afterSettle", () => { drawCharts(); showFields(); countChosen(); });
  const begin = () => { drawCharts(); showFields(); countChosen(); connect(); };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();
})();
