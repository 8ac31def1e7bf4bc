// The wall in a headless Chromium: thumbnails and the large view show the guest's pixels, and another origin gets nothing.
//   node faces-wall.cjs URL STILL.ppm GUEST THUMBNAILS
"use strict";
const fs = require("node:fs");
const http = require("node:http");
const os = require("node:os");
const path = require("node:path");
const { chromium } = require("playwright-core");

const [url, still, name, least] = process.argv.slice(2);
const button = `button[data-path='/guests/${name}']`;

function ppm(file) {
  const data = fs.readFileSync(file);
  const head = /^P6\s(\d+) (\d+)\s255\s/.exec(data.subarray(0, 40).toString("latin1"));
  return { width: Number(head[1]), height: Number(head[2]), rgb: data.subarray(head[0].length) };
}

// How many of the values on a page's grid differ from the still's at the same places.
function differ(want, got) {
  let off = 0;
  got.grid.forEach(([x, y, ...rgb]) => {
    const from = (Math.floor(y * want.height) * want.width + Math.floor(x * want.width)) * 3;
    for (let c = 0; c < 3; c++) if (Math.abs(want.rgb[from + c] - rgb[c]) > 60) off++;
  });
  return off / (got.grid.length * 3);
}

function check(ok, text) {
  if (!ok) throw new Error(text);
}

async function main() {
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), "vgpu-chromium-"));
  const browser = await chromium.launchPersistentContext(profile, {
    executablePath: "/usr/bin/chromium",
    headless: true,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync"],
  });
  try {
    const page = await browser.newPage();
    const faults = [];
    page.on("pageerror", (error) => faults.push(String(error)));
    page.on("console", (message) => { if (/Content Security/.test(message.text())) faults.push(message.text()); });
    await page.goto(url);
    check(!page.url().includes("token"), `the token stays in the address: ${page.url()}`);
    await page.waitForFunction((least) => document.querySelectorAll("canvas[data-frame]").length >= least, Number(least), { timeout: 60000 });
    const want = ppm(still);
    const read = (source) => page.evaluate(async (selector) => {
      const from = document.querySelector(selector);
      const canvas = document.createElement("canvas");
      canvas.width = from.naturalWidth || from.width;
      canvas.height = from.naturalHeight || from.height;
      const context = canvas.getContext("2d");
      context.drawImage(from, 0, 0);
      const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
      // 160 x 90 places: a whole picture takes seconds to hand over.
      const grid = [];
      for (let row = 0.5; row < 90; row++) {
        for (let column = 0.5; column < 160; column++) {
          const [x, y] = [column / 160, row / 90];
          const at = (Math.floor(y * canvas.height) * canvas.width + Math.floor(x * canvas.width)) * 4;
          grid.push([x, y, data[at], data[at + 1], data[at + 2]]);
        }
      }
      return { width: canvas.width, height: canvas.height, grid };
    }, source);
    const small = await read(`${button} canvas`);
    const part = differ(want, small);
    check(small.width === 320 && part < 0.1, `the thumbnail: ${small.width} wide, ${part} differ`);
    await page.click(button);
    await page.waitForFunction(() => document.querySelector("dialog img").naturalWidth > 0, null, { timeout: 30000 });
    const large = await read("dialog img");
    const rest = differ(want, large);
    check(large.width === want.width && large.height === want.height && rest < 0.06, `large: ${large.width} x ${large.height}, ${rest} differ`);
    // The picture moves.
    await page.waitForTimeout(700);
    const later = await read("dialog img");
    check(JSON.stringify(later.grid) !== JSON.stringify(large.grid), "the stream stands still");
    await page.evaluate(() => document.querySelector("dialog button").click());
    // The stream ends with the view.
    await page.waitForFunction(() => !document.querySelector("dialog img").hasAttribute("src"), null, { timeout: 30000 });
    check(faults.length === 0, faults.join("\n"));

    // Another origin on the same machine, in the browser that holds the cookie.
    const other = http.createServer((_, answer) => {
      answer.setHeader("Content-Type", "text/html");
      answer.end("<!doctype html><title>other</title>");
    });
    await new Promise((done) => { other.listen(0, "127.0.0.1", done); });
    const thief = await browser.newPage();
    await thief.goto(`http://127.0.0.1:${other.address().port}/`);
    const base = new URL(url).origin;
    const got = await thief.evaluate(async ({ base, name }) => {
      const read = async (init) => {
        try {
          const answer = await fetch(`${base}/guests`, init);
          return `${answer.type} ${answer.status} ${await answer.text()}`;
        } catch (error) { return "refused"; }
      };
      const picture = await new Promise((done) => {
        const image = new Image();
        image.onload = () => done(image.naturalWidth);
        image.onerror = () => done(0);
        image.src = `${base}/guests/${name}/frame.png`;
      });
      return { plain: await read({ credentials: "include" }), blind: await read({ credentials: "include", mode: "no-cors" }), picture };
    }, { base, name });
    check(got.plain === "refused" && got.picture === 0 && /^(refused|opaque 0 $)/.test(got.blind), `another origin got ${JSON.stringify(got)}`);
    other.close();
    console.log(`figure: wall: ${(part * 100).toFixed(1)} % of the thumbnail's values and ${(rest * 100).toFixed(1)} % of the stream's differ (what moves); another origin got nothing`);
  } finally {
    await browser.close();
    fs.rmSync(profile, { recursive: true, force: true });
  }
}

main().catch((error) => { console.error(error.message.split("\n")[0]); process.exit(1); });
