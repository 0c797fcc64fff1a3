// A person at the console, in Chromium: prints what they find, as one JSON object. A person with a key needs one.
// Usage: node console.cjs URL CLIP.wav [KEY [SCREENSHOT]]
"use strict";

const fs = require("node:fs");
const { chromium } = require("playwright-core");

const [url, clip, key, screenshot] = process.argv.slice(2);
const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const PATIENCE_MS = 60_000;

/** Notes whatever a developer would see in red. */
async function opened(browser, options) {
  const complaints = [];
  const context = await browser.newContext({ viewport: { width: 1280, height: 1000 }, permissions: ["microphone"], ...options });
  context.setDefaultTimeout(PATIENCE_MS);
  const page = await context.newPage();
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && complaints.push(message.text()));
  page.on("requestfailed", (request) => complaints.push(`${request.url()}: ${request.failure()?.errorText}`));
  await page.addInitScript(() => {
    window.shifted = 0;
    window.violations = [];
    addEventListener("securitypolicyviolation", (event) => window.violations.push(`${event.violatedDirective}: ${event.blockedURI}`));
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifted += entry.value;
    }).observe({ type: "layout-shift", buffered: true });
  });
  const asked = new Set();
  page.on("request", (request) => asked.add(new URL(request.url()).origin));
  await page.goto(url);
  return { page, complaints, asked };
}

const segments = (page) =>
  page.$$eval("#segment-rows tr[data-start-ms]", (rows) => rows.map((row) => [Number(row.dataset.startMs), Number(row.dataset.endMs)]));

const isOver = (page) =>
  page.waitForFunction(() => document.getElementById("stop").disabled && /\d windows/.test(document.getElementById("sound-state").textContent));

const chosen = async (page, model) => {
  await page.click(`.pick:has-text("${model}")`);
  await page.waitForFunction((name) => document.getElementById("model-title").textContent.startsWith(name) && !document.getElementById("panel-try").inert, model);
};

/** Lets go of a file above the drawing. */
async function drop(page, name) {
  const bytes = fs.readFileSync(name).toString("base64");
  await page.evaluate((base64) => {
    const file = new File([Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))], "clip.wav", { type: "audio/wav" });
    const data = new DataTransfer();
    data.items.add(file);
    document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
  }, bytes);
}

/** What Tab reaches, in its order, and what of it does not show that it has the focus. */
async function walked(page) {
  await page.evaluate(() => {
    // From the very beginning, wherever the last click was.
    document.body.tabIndex = -1;
    document.body.focus();
    document.body.removeAttribute("tabindex");
  });
  const [order, unseen] = [[], []];
  for (let step = 0; step < 80; step += 1) {
    await page.keyboard.press("Tab");
    const found = await page.evaluate(() => {
      const focused = document.activeElement;
      if (focused === document.body || "walked" in focused.dataset) return null;
      focused.dataset.walked = "";
      const styles = [focused, focused.nextElementSibling].filter(Boolean).map((one) => getComputedStyle(one));
      const shows = styles[0].outlineStyle !== "none" || styles.some((style) => style.boxShadow.includes("inset"));
      return { name: focused.id || focused.textContent.trim().slice(0, 20), shows };
    });
    if (!found) break;
    order.push(found.name);
    if (!found.shows) unseen.push(found.name);
  }
  return { order, unseen };
}

/** What a reader of the page's tree, or one with weak eyes, would stumble over. */
const faults = (page) =>
  page.evaluate(() => {
    const found = [];
    const isShown = (node) => node.checkVisibility({ visibilityProperty: true, opacityProperty: true });
    const label = (node) =>
      node.getAttribute("aria-label") ||
      (node.getAttribute("aria-labelledby") ?? "").split(" ").map((id) => document.getElementById(id)?.textContent ?? "").join("").trim() ||
      [...(node.labels ?? [])].map((one) => one.textContent).join("").trim() ||
      (node.matches("button, a, summary") ? node.textContent.trim() : "");
    for (const node of document.querySelectorAll("button, a[href], input, select, textarea, summary, [role=img], dialog, section")) {
      if (isShown(node) && !label(node)) found.push(`no name: ${node.outerHTML.slice(0, 80)}`);
    }
    const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
    for (const id of new Set(ids)) if (ids.filter((one) => one === id).length > 1) found.push(`twice: #${id}`);
    for (const node of document.querySelectorAll("[aria-controls], [aria-labelledby], [aria-describedby]")) {
      for (const name of ["aria-controls", "aria-labelledby", "aria-describedby"]) {
        for (const id of (node.getAttribute(name) ?? "").split(" ").filter(Boolean)) if (!ids.includes(id)) found.push(`${name}: no #${id}`);
      }
    }
    if (!document.documentElement.lang) found.push("no language");
    for (const landmark of ["header", "main", "nav", "footer"]) if (document.querySelectorAll(landmark).length !== 1) found.push(`landmark ${landmark}`);
    const levels = [...document.querySelectorAll("h1, h2, h3")].filter(isShown).map((node) => Number(node.tagName[1]));
    if (levels.filter((level) => level === 1).length !== 1) found.push("not one h1");
    levels.forEach((level, at) => at > 0 && level > levels[at - 1] + 1 && found.push("a level of headings is left out"));
    for (const cell of document.querySelectorAll("th")) if (!cell.scope) found.push(`a heading of a table without scope: ${cell.textContent}`);

    // Colours as a canvas sees them, so that every way to write one is understood.
    const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const seen = (colour) => {
      context.clearRect(0, 0, 1, 1);
      context.fillStyle = colour;
      context.fillRect(0, 0, 1, 1);
      const [red, green, blue, alpha] = context.getImageData(0, 0, 1, 1).data;
      return [red, green, blue, alpha / 255];
    };
    const over = (top, below) => [0, 1, 2].map((at) => top[at] * top[3] + below[at] * (1 - top[3]));
    const ground = (node) => {
      const layers = [];
      for (let one = node; one; one = one.parentElement) layers.push(seen(getComputedStyle(one).backgroundColor));
      return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
    };
    const light = (colour) => {
      const [red, green, blue] = colour.map((part) => (part / 255 <= 0.03928 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4));
      return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const contrast = (one, other) => (Math.max(light(one), light(other)) + 0.05) / (Math.min(light(one), light(other)) + 0.05);
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const node = texts.currentNode.parentElement;
      if (!texts.currentNode.textContent.trim() || !isShown(node) || node.closest("noscript, :disabled, svg, .hidden, .skip")) continue;
      const style = getComputedStyle(node);
      const below = ground(node);
      const isLarge = Number.parseFloat(style.fontSize) >= 24 || (Number.parseFloat(style.fontSize) >= 18.66 && Number(style.fontWeight) >= 700);
      const reached = contrast(over(seen(style.color), below), below);
      if (reached < (isLarge ? 3 : 4.5)) found.push(`contrast ${reached.toFixed(2)}: ${texts.currentNode.textContent.trim().slice(0, 40)}`);
    }
    return found;
  });

const brightness = (page) => page.evaluate(() => Number(getComputedStyle(document.body).backgroundColor.match(/\d+/)[0]));

async function looked(browser, found) {
  const { page, complaints, asked } = await opened(browser, { colorScheme: "light" });
  await page.waitForSelector(".pick");
  found.models = await page.$$eval(".pick", (picks) => picks.map((pick) => pick.dataset.id));
  await page.waitForFunction(() => document.getElementById("connection").dataset.state === "good");
  // Rates take two looks at the counters.
  await page.waitForFunction(() => document.querySelectorAll(".plot:not(.stale)").length === 4);
  found.shifted = await page.evaluate(() => window.shifted);

  await chosen(page, "silero-vad");
  await page.uncheck("#aloud");
  await drop(page, clip);
  await isOver(page);
  found.dropped = await segments(page);
  found.drawing = await page.getAttribute("#scope-canvas", "aria-label");
  await page.check("#aloud");
  await page.click("#sample");
  await page.waitForSelector("#stop:not([disabled])");
  found.buttons = await page.$$eval("#sound .actions button", (buttons) => buttons.map((button) => [button.id, button.disabled]));
  await isOver(page);
  found.sample = await segments(page);

  found.light = await faults(page);
  found.walk = await walked(page);
  await page.focus("#tab-try");
  await page.keyboard.press("ArrowRight");
  found.about = await page.textContent("#panel-about");
  found.plots = await page.$$eval("#panel-about svg[role=img]", (plots) => plots.map((plot) => plot.getAttribute("aria-label")));
  found.light.push(...(await faults(page)));
  await page.keyboard.press("End");
  found.code = await page.$$eval("#panel-code pre", (blocks) => blocks.map((block) => block.textContent));
  await page.keyboard.press("Home");

  await page.emulateMedia({ colorScheme: "dark" });
  found.dark = await faults(page);
  found.brightness = [await brightness(page)];
  await page.emulateMedia({ colorScheme: "light" });
  found.brightness.push(await brightness(page));

  await chosen(page, "example_model");
  const request = JSON.parse(await page.inputValue("#request"));
  request.inputs[0].shape = [1, 2];
  request.inputs[0].data = [1, 2.5];
  await page.fill("#request", JSON.stringify(request));
  await page.click("#send");
  await page.waitForFunction(() => document.getElementById("response").textContent.includes("outputs"));
  found.response = JSON.parse(await page.textContent("#response")).outputs[0].data;

  await page.setViewportSize({ width: 360, height: 700 });
  found.overflow = await page.evaluate(() => document.scrollingElement.scrollWidth - innerWidth);
  Object.assign(found, { complaints: [...complaints], violations: await page.evaluate(() => window.violations), origins: [...asked] });

  // From here on, the browser itself complains.
  await page.route("**/tidemill/**", (route) => route.abort());
  await page.waitForSelector("#notice:not([hidden])");
  found.notice = await page.textContent("#notice-text");
  await page.unroute("**/tidemill/**");
  await page.click("#notice-action");
  await page.waitForSelector("#notice", { state: "hidden" });
  await page.waitForFunction(() => document.getElementById("connection").dataset.state === "good");
  await page.context().close();
}

async function listened(browser, found) {
  const { page, complaints } = await opened(browser, {});
  await page.waitForSelector(".pick");
  await chosen(page, "silero-vad");
  await page.click("#microphone");
  await page.waitForSelector("#segment-rows tr[data-start-ms]");
  await page.click("#stop");
  await isOver(page);
  Object.assign(found, { heard: await segments(page), heardComplaints: complaints });
  await page.context().close();
}

/** Somebody who has a key to a server that asks for one. */
async function keyed(browser, found) {
  const { page, complaints } = await opened(browser, { ignoreHTTPSErrors: true });
  await page.waitForSelector("#key-dialog[open]");
  found.withoutKey = await page.textContent("#connection-text");
  await page.fill("#key-text", key.replace(/.$/, (last) => (last === "0" ? "1" : "0")));
  await page.keyboard.press("Enter");
  await page.waitForSelector("#key-dialog[open]");
  await page.waitForFunction(() => document.getElementById("key-error").textContent.trim() !== "");
  found.wrongKey = await page.textContent("#key-error");
  found.faults = await faults(page);
  complaints.length = 0;
  await page.fill("#key-text", key);
  await page.keyboard.press("Enter");
  await page.waitForSelector(".pick");
  await chosen(page, "silero-vad");
  await page.uncheck("#aloud");
  await drop(page, clip);
  await isOver(page);
  Object.assign(found, { dropped: await segments(page), complaints, violations: await page.evaluate(() => window.violations) });
  found.kept = await page.evaluate(() => [localStorage.length, sessionStorage.length, document.cookie, location.href]);
  found.shown = (await page.content()).includes(key);
  await page.context().close();
}

/** The picture in README.md. It shows the load that there is on the server, so there should be some: 60 feeds, say. */
async function pictured(browser) {
  const { page } = await opened(browser, { viewport: { width: 1280, height: 1250 }, deviceScaleFactor: 1.5 });
  await page.waitForSelector(".pick");
  await chosen(page, "silero-vad");
  // Until the plots show their whole minute.
  await page.waitForTimeout(58_000);
  await page.click("#sample");
  await page.waitForTimeout(3_100);
  await page.screenshot({ path: screenshot });
  await page.context().close();
}

async function main() {
  const microphone = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", `--use-file-for-fake-audio-capture=${clip}`];
  const args = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required", ...microphone];
  const browser = await chromium.launch({ executablePath: CHROMIUM, args });
  const found = {};
  try {
    if (screenshot) await pictured(browser);
    else if (key) await keyed(browser, found);
    else {
      await looked(browser, found);
      await listened(browser, found);
    }
  } finally {
    await browser.close();
  }
  console.log(JSON.stringify(found));
}

main();
