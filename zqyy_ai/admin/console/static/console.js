// What the server's pages can't do alone: live updates, the drawer, questions before actions, charts. No state beyond the page.
"use strict";

(() => {
  const STREAM_RETRY_MS = 3000;
  const POLL_MS = 5000;
  // A server that takes requests and does not answer them: its database hangs.
  const ANSWER_MS = 10_000;
  const GATHER_MS = 200;
  // A page is a whole rendering to the server: at most so often, however much happens.
  const BETWEEN_UPDATES_MS = 800;
  // What changes by time alone: ages, expiries.
  const SLOW_MS = 60_000;
  const LONGEST_PRESS_MS = 2000;
  // Marks what the page asks by itself.
  const REFRESH = { "X-Console-Refresh": "yes" };
  // Parts of a page that are exchanged where they have changed.
  const PARTS = ["menu", "notices", "switch", "live"];

  const byId = (id) => document.getElementById(id);
  const script = document.currentScript;

  // ---- What an action says -------------------------------------------------------------------------------------------------------

  // An open drawer covers the page and makes the rest of it inert: then it is told there.
  const flash = () => (byId("drawer")?.open ? byId("drawer-flash") : byId("flash"));

  function say(kind, text, link, linkText) {
    const line = document.createElement("p");
    line.className = `alert ${kind}`;
    if (kind === "error") line.setAttribute("role", "alert");
    line.append(text);
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

  function done(elt, { message, link, linkText }) {
    say("good", message, link, linkText);
    for (const place of document.querySelectorAll("[data-clear-on-done]")) place.replaceChildren();
    // What was sent is done with; what is written or ticked elsewhere stays.
    if (elt.matches("form")) elt.reset();
    for (const field of document.querySelectorAll(elt.getAttribute("hx-include") || "#nothing")) field.value = "";
    update();
  }

  let actionsUnderWay = 0;

  // The second half of a double click is no second wish, not even when the first was answered between the two.
  document.addEventListener("click", (event) => {
    if (event.detail > 1 && event.target.closest("[hx-post], form[hx-post] button")) {
      event.preventDefault();
      event.stopImmediatePropagation();
    }
  }, { capture: true });

  // An action is asked for once, however often its button is clicked. The request itself is listened to, not htmx's events: those are lost
  // with an element that was exchanged meanwhile.
  document.addEventListener("htmx:beforeRequest", (event) => {
    const { elt, xhr, requestConfig } = event.detail;
    if (requestConfig.verb !== "post") return;
    if (elt.dataset.busy) { event.preventDefault(); return; }
    const buttons = elt.matches("form") ? [...elt.querySelectorAll("button")] : [elt];
    elt.dataset.busy = "yes";
    for (const button of buttons) button.setAttribute("aria-disabled", "true");
    actionsUnderWay += 1;
    xhr.addEventListener("loadend", () => {
      actionsUnderWay -= 1;
      delete elt.dataset.busy;
      for (const button of buttons) button.removeAttribute("aria-disabled");
      const told = JSON.parse(xhr.getResponseHeader("HX-Trigger") || "{}")["console:done"];
      if (told) done(elt, told);
      catchUp();
    });
  });

  // Errors are told where actions are told of, whatever was to be exchanged.
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { xhr } = event.detail;
    if (xhr.status < 400) return;
    event.detail.shouldSwap = false;
    if ((xhr.getResponseHeader("Content-Type") || "").startsWith("text/html")) flash().innerHTML = xhr.responseText;
    else say("error", `请求失败（${xhr.status}）`);
  });
  for (const loss of ["htmx:sendError", "htmx:timeout"]) {
    document.addEventListener(loss, (event) => {
      const isAction = event.detail.requestConfig.verb === "post";
      say("error", isAction ? "连接中断，不确定操作是否已送达：恢复后请先查看结果，再决定是否重做" : "连接不上服务，请稍后再试");
    });
  }

  // ---- The parts of the page that live ---------------------------------------------------------------------------------------------

  let updating = false;
  let updateWaits = false;

  // An element that is exchanged while it asks for something, while somebody is asked about it or holds it, would lose that.
  const mustWait = () => actionsUnderWay > 0 || performance.now() - pressedAt < LONGEST_PRESS_MS || byId("confirm")?.open || isSelecting() || isWriting();
  let pressedAt = -LONGEST_PRESS_MS;
  document.addEventListener("pointerdown", () => { pressedAt = performance.now(); setTimeout(catchUp, LONGEST_PRESS_MS + 1); });
  for (const end of ["pointerup", "pointercancel"]) {
    // After the click that comes of it.
    document.addEventListener(end, () => setTimeout(() => { pressedAt = -LONGEST_PRESS_MS; catchUp(); }));
  }
  const exchanged = () => [...PARTS.map(byId), byId("drawer-body")].filter(Boolean);
  function isSelecting() {
    const selection = getSelection();
    return !selection.isCollapsed && exchanged().some((part) => part.contains(selection.anchorNode));
  }
  function isWriting() {
    const field = document.activeElement;
    return field?.matches("input:not([type=checkbox]):not([type=radio]), textarea, select") && exchanged().some((part) => part.contains(field));
  }
  document.addEventListener("selectionchange", () => catchUp());
  document.addEventListener("focusout", () => setTimeout(catchUp));

  function catchUp() {
    if (updateWaits && !mustWait()) update();
  }

  // Everything that lives, anew: one after the other, and again where something came meanwhile.
  async function update() {
    if (updating || mustWait()) { updateWaits = true; return; }
    updating = true;
    updateWaits = false;
    try {
      await updatePage();
      await updateDrawer();
      isBehind = false;
    } catch {
      isBehind = true;
      setTimeout(update, POLL_MS);
    } finally {
      updating = false;
      showState();
      catchUp();
    }
  }

  // Null where the answer is not to be used. Throws where there is none.
  async function ask(path) {
    const answer = await fetch(path, { headers: REFRESH, signal: AbortSignal.timeout(ANSWER_MS) });
    if (answer.status === 401) { loginEnded(); return null; }
    if (answer.status >= 500) throw new Error(String(answer.status));
    return answer.ok ? answer.text() : null;
  }

  async function updatePage() {
    if (!byId("live") || loginHasEnded) return;
    const text = await ask(location.href);
    if (text === null) return;
    if (mustWait()) { updateWaits = true; return; }
    const page = new DOMParser().parseFromString(text, "text/html");
    for (const id of PARTS) exchange(byId(id), page.getElementById(id));
    drawCharts();
  }

  async function updateDrawer() {
    const path = shownInDrawer();
    if (!path || loginHasEnded) return;
    const text = await ask(path);
    // Closed meanwhile, or something else was opened.
    if (text === null || shownInDrawer() !== path) return;
    if (mustWait()) { updateWaits = true; return; }
    const body = byId("drawer-body");
    if (sent.get(body.firstElementChild) === text) return;
    // The element stays: what somebody has asked for meanwhile goes into it.
    const kept = keep(body);
    body.innerHTML = text;
    if (body.firstElementChild) sent.set(body.firstElementChild, text);
    htmx.process(body);
    restore(body, kept);
  }

  const shownInDrawer = () => (byId("drawer")?.open ? byId("drawer-body").querySelector("[data-drawer-path]")?.dataset.drawerPath : null);

  // What is on the page as the server sent it: nothing is exchanged for the same.
  const sent = new WeakMap();

  function exchange(old, fresh) {
    if (!old || !fresh || sent.get(old) === fresh.outerHTML) return;
    sent.set(fresh, fresh.outerHTML);
    const kept = keep(old);
    old.replaceWith(fresh);
    htmx.process(fresh);
    restore(fresh, kept);
    showFields();
    countChosen();
  }

  // What somebody has done with a part until the moment at which it is exchanged.
  function keep(part) {
    return {
      isOpenMenu: part.classList.contains("open"),
      written: [...part.querySelectorAll("input[id]:not([type=checkbox]), textarea[id]")]
        .filter((field) => field.value !== field.defaultValue)
        .map((field) => [field.id, field.value]),
      checked: [...part.querySelectorAll("input:checked")].map((box) => `${box.name}=${box.value}`),
      open: unfoldable(part).filter(([, details]) => details.open).map(([name]) => name),
      focused: part.contains(document.activeElement) ? signed(part).find(([, element]) => element === document.activeElement)?.[0] : null,
      scrolled: [...part.querySelectorAll(".table-scroll")].map((place) => place.scrollLeft),
    };
  }

  function restore(part, { isOpenMenu, written, checked, open, focused, scrolled }) {
    if (isOpenMenu) part.classList.add("open");
    for (const box of part.querySelectorAll("input[type=checkbox]")) if (checked.includes(`${box.name}=${box.value}`)) box.checked = true;
    for (const [field, value] of written) if (byId(field)) byId(field).value = value;
    for (const [name, details] of unfoldable(part)) if (open.includes(name)) details.open = true;
    [...part.querySelectorAll(".table-scroll")].forEach((place, number) => { place.scrollLeft = scrolled[number] || 0; });
    if (focused) signed(part).find(([name]) => name === focused)?.[1].focus({ preventScroll: true });
  }

  const unfoldable = (part) => [...part.querySelectorAll("details")].map((details, number) => [details.id || details.dataset.keep || number, details]);

  // What can have the focus, with a name by which it is found again in a later rendering.
  function signed(part) {
    const seen = new Map();
    return [...part.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex]")].map((element) => {
      const told = ["id", "hx-get", "hx-post", "hx-vals", "href", "name", "value", "aria-label"].map((name) => element.getAttribute(name) || "");
      const name = element.id || [element.tagName, ...told].join("|");
      seen.set(name, (seen.get(name) || 0) + 1);
      return [`${name}#${seen.get(name)}`, element];
    });
  }

  // ---- The stream --------------------------------------------------------------------------------------------------------------------

  let stream = null;
  let reconnecting = null;
  let isBehind = false;
  let loginHasEnded = false;
  let gathering = null;
  let updatedAt = -BETWEEN_UPDATES_MS;

  function showState() {
    const place = byId("live-state");
    if (!place?.dataset.stream) return;
    const isLive = stream?.readyState === EventSource.OPEN && !isBehind && !loginHasEnded;
    const text = isLive ? "实时" : "重连中";
    if (place.textContent === text) return;
    place.className = `live-state ${isLive ? "on" : "off"}`;
    place.textContent = text;
  }

  function connect() {
    const place = byId("live-state");
    if (!place?.dataset.stream || document.hidden || loginHasEnded) return;
    stream?.close();
    stream = new EventSource(place.dataset.stream);
    // What happened between the page's rendering, or the loss, and now.
    stream.onopen = () => { showState(); update(); };
    stream.onerror = () => {
      showState();
      // The browser comes back by itself from a lost connection, but not from an answer that is no stream.
      clearTimeout(reconnecting);
      if (stream.readyState === EventSource.CLOSED) reconnecting = setTimeout(connect, STREAM_RETRY_MS);
    };
    for (const type of ["alert_created", "alert_updated", "cache_updated", "job_updated", "prewarm_progress", "reset"]) {
      stream.addEventListener(type, () => came(type));
    }
  }

  // Bursts are shown together. An alert counts in the menu of every page.
  function came(type) {
    const wanted = (byId("live")?.dataset.live || "").split(" ");
    if (type !== "reset" && !wanted.includes(type) && !type.startsWith("alert_")) return;
    gathering ||= setTimeout(() => {
      gathering = null;
      updatedAt = performance.now();
      update();
    }, Math.max(GATHER_MS, updatedAt + BETWEEN_UPDATES_MS - performance.now()));
  }

  // A hidden page asks for nothing, and leaves its connection to others: a browser has six for each server.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { clearTimeout(reconnecting); stream?.close(); } else connect();
  });
  setInterval(() => { if (!document.hidden && stream?.readyState !== EventSource.OPEN) update(); }, POLL_MS);
  setInterval(() => { if (!document.hidden) update(); }, SLOW_MS);

  // Nothing is taken away: what was written can still be copied.
  function loginEnded() {
    if (loginHasEnded) return;
    loginHasEnded = true;
    stream?.close();
    say("error", "登录已失效，页面不再更新", `/login?next=${encodeURIComponent(location.pathname + location.search)}`, "重新登录");
  }

  // ---- The drawer, and questions ---------------------------------------------------------------------------------------------------

  let opener = null;
  document.addEventListener("htmx:beforeRequest", (event) => {
    const { elt, target } = event.detail;
    if (target?.id !== "drawer-body" || byId("drawer").open) return;
    const part = exchanged().find((one) => one.contains(elt));
    opener = part ? { id: part.id, name: signed(part).find(([, element]) => element === elt)?.[0] } : null;
  });
  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target.id !== "drawer-body") return;
    byId("drawer-flash").replaceChildren();
    if (!byId("drawer").open) byId("drawer").showModal();
    showFields();
  });

  // Closed before it came: then it is not wanted any more.
  let drawerRequest = null;
  document.addEventListener("htmx:beforeSend", (event) => {
    if (event.detail.target?.id === "drawer-body") drawerRequest = event.detail.xhr;
  });
  byId("drawer")?.addEventListener("close", () => {
    drawerRequest?.abort();
    byId("drawer-body").replaceChildren();
    byId("drawer-flash").replaceChildren();
    // Its opener may have been exchanged meanwhile.
    const part = opener && byId(opener.id);
    if (part && document.activeElement === document.body) signed(part).find(([name]) => name === opener.name)?.[1].focus({ preventScroll: true });
  });

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
  // The key that opened the question, still held, is no answer to it.
  byId("confirm")?.addEventListener("keydown", (event) => { if (event.repeat) event.preventDefault(); });

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
  // What was worked out for other values is no longer of use.
  document.addEventListener("input", (event) => {
    const place = event.target.form?.dataset.clears;
    if (place) byId(place).replaceChildren();
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
  const drawn = new Set();

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
    if (!document.querySelector("[data-chart]")) return;
    await loadEcharts();
    // Charts of parts that were exchanged.
    for (const place of drawn) if (!place.isConnected) { echarts.getInstanceByDom(place)?.dispose(); drawn.delete(place); }
    for (const place of document.querySelectorAll("[data-chart]")) {
      if (drawn.has(place)) continue;
      drawn.add(place);
      const data = JSON.parse(place.dataset.chart);
      const chart = echarts.init(place, null, { renderer: "canvas" });
      chart.setOption(data.kind === "trend" ? trend(data, place.clientWidth) : shares(data), true);
      new ResizeObserver(() => chart.isDisposed() || chart.resize()).observe(place);
    }
  }

  // Tooltips as drawn text: HTML ones would need styles of their own, which the page's policy forbids.
  const base = () => ({ animation: false, textStyle: { fontFamily: getComputedStyle(document.body).fontFamily } });

  function trend({ days, bars, lines }, width) {
    return {
      ...base(),
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
      ...base(),
      tooltip: { trigger: "item", renderMode: "richText" },
      grid: { left: 8, right: 48, top: 4, bottom: 4, containLabel: true },
      xAxis: { type: "value", minInterval: 1, show: false },
      yAxis: { type: "category", inverse: true, data: items.map((item) => item.name), axisTick: { show: false }, axisLine: { show: false } },
      series: [{ type: "bar", data: items.map((item) => item.value), barMaxWidth: 18, color: "#1677ff", label: { show: true, position: "right" } }],
    };
  }

  const begin = () => { drawCharts(); showFields(); countChosen(); connect(); };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();
})();
