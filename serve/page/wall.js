"use strict";
// The wall: a list of guests every few seconds, and for each that can be seen a thumbnail every second.

const wall = document.getElementById("wall");
const trouble = document.getElementById("trouble");
const large = document.getElementById("large");
const tiles = new Map();

// A browser opens six connections to a server: thumbnails take three, and a stream has one to itself.
const AT_A_TIME = 3;
const seen = new Set();
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) seen.add(entry.target); else seen.delete(entry.target);
  }
});

function say(text) {
  trouble.textContent = text;
  trouble.hidden = text === "";
}

function tile(guest) {
  const button = document.createElement("button");
  button.className = "guest";
  button.append(document.createElement("canvas"), document.createElement("span"), document.createElement("span"));
  button.children[1].className = "name";
  button.children[2].className = "state";
  button.children[1].textContent = guest.name;
  button.dataset.path = guest.path;
  button.addEventListener("click", () => show(guest));
  watcher.observe(button);
  wall.append(button);
  return { button, path: guest.path, tag: null, due: 0, busy: false };
}

async function list() {
  try {
    const answer = await fetch("/guests");
    if (!answer.ok) throw new Error(await answer.text());
    const { guests, left_out } = await answer.json();
    const now = new Set();
    for (const guest of guests) {
      now.add(guest.path);
      if (!tiles.has(guest.path)) tiles.set(guest.path, tile(guest));
      const { button } = tiles.get(guest.path);
      const live = guest.state === "live";
      button.classList.toggle("live", live);
      button.children[2].textContent = live
        ? `live, ${guest.width} x ${guest.height}, frame ${guest.frame_id}`
        : `${guest.state}: ${guest.detail}`;
      if (large.open && large.dataset.path === guest.path) {
        large.querySelector("p").textContent = button.children[2].textContent;
      }
    }
    for (const [path, one] of tiles) {
      if (now.has(path)) continue;
      watcher.unobserve(one.button);
      seen.delete(one.button);
      one.button.remove();
      tiles.delete(path);
    }
    say(left_out > 0 ? `${left_out} more guests are not shown.` : guests.length === 0 ? "No guests on this host." : "");
  } catch (error) {
    say(`The server does not answer: ${error.message}`);
  }
  setTimeout(list, 2000);
}

async function thumbnail(one) {
  one.busy = true;
  try {
    const headers = one.tag ? { "If-None-Match": one.tag } : {};
    const answer = await fetch(`${one.path}/frame.jpg?width=320`, { headers });
    const canvas = one.button.children[0];
    if (answer.status === 200) {
      const picture = await createImageBitmap(await answer.blob());
      canvas.width = picture.width;
      canvas.height = picture.height;
      canvas.getContext("2d").drawImage(picture, 0, 0);
      picture.close();
      one.tag = answer.headers.get("ETag");
      canvas.dataset.frame = answer.headers.get("X-Frame-Id");
    } else if (answer.status !== 304) {
      // What is not so any more is not shown.
      canvas.width = canvas.width;
      one.tag = null;
      delete canvas.dataset.frame;
    }
    one.due = Date.now() + (answer.status < 400 ? 1000 : 3000);
  } catch {
    one.due = Date.now() + 3000;
  }
  one.busy = false;
}

function turn() {
  const all = [...tiles.values()];
  const free = AT_A_TIME - all.filter((one) => one.busy).length;
  const waiting = all.filter((one) => !one.busy && one.due <= Date.now() && seen.has(one.button));
  waiting.sort((a, b) => a.due - b.due);
  if (!document.hidden && !large.open) waiting.slice(0, free).forEach(thumbnail);
  setTimeout(turn, 50);
}

function show(guest) {
  large.dataset.path = guest.path;
  large.querySelector("h2").textContent = guest.name;
  large.querySelector("img").src = `${guest.path}/stream`;
  large.showModal();
}

// The stream ends with the view: nothing is read for a picture that nobody sees.
large.addEventListener("close", () => large.querySelector("img").removeAttribute("src"));
large.querySelector("button").addEventListener("click", () => large.close());
large.querySelector("img").addEventListener("click", () => large.close());

list();
turn();
