// The page: reads the shop's API in small loops, draws what changed, sends what the visitor does.

import { art } from "/art.js";

const $ = (id) => document.getElementById(id);
const shop = { products: [], cart: { lines: [] }, orders: [], seenOrders: null, checkoutKey: null };

const euros = new Intl.NumberFormat("en", { style: "currency", currency: "EUR" });
const money = (cents) => euros.format(cents / 100);

/** A DOM element; text is text, never markup. */
function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value != null) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

async function api(method, path, body, headers = {}) {
  const options = { method, headers: { ...headers } };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["content-type"] = "application/json";
  }
  const response = await fetch(`/api${path}`, options);
  const text = await response.text();
  let answer = null;
  try { answer = text ? JSON.parse(text) : null; } catch { /* said below */ }
  if (!response.ok) {
    const error = new Error(answer?.message ?? `the shop answered ${response.status}`);
    throw Object.assign(error, { status: response.status });
  }
  return answer;
}

/** Redraws only when the data changed, so that focus and hover survive the polling. */
function drawOnChange(draw) {
  let last;
  return (data) => {
    const now = JSON.stringify(data);
    if (now === last) return;
    last = now;
    draw(data);
  };
}

function trouble(id, error) {
  $(id).hidden = !error;
  $(id).textContent = error ? error.message : "";
}

let toastTimer;
function toast(text) {
  $("toast").textContent = text;
  $("toast").classList.add("shown");
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => $("toast").classList.remove("shown"), 3200);
}

// ---- products

const price = (product) => [
  el("span", { class: "now" }, money(product.priceCents)),
  product.priceCents < product.listCents ? el("s", {}, money(product.listCents)) : null,
].filter(Boolean);

function stockText(stock) {
  if (stock === 0) return ["Sold out", "none"];
  if (stock <= 5) return [`Only ${stock} left`, "few"];
  return [`${stock} in stock`, "many"];
}

function productCard(product) {
  const [text, level] = stockText(product.stock);
  return el("li", { class: `card tint-${product.id}` },
    el("div", { class: "art" }, art(product.id), el("span", { class: "tag" }, product.tag)),
    el("div", { class: "card-body" },
      el("h3", {}, product.name),
      el("p", { class: "blurb" }, product.blurb),
      el("p", { class: `stock ${level}` }, text),
      el("div", { class: "buy" },
        el("p", { class: "price" }, ...price(product)),
        el("button", {
          class: "button small-button", type: "button", disabled: product.stock === 0,
          "aria-label": `Add ${product.name} to the cart`, onclick: () => add(product.id),
        }, "Add"))));
}

const drawProducts = drawOnChange((answer) => {
  shop.products = answer.products;
  const focused = document.activeElement?.getAttribute("aria-label");
  $("grid").replaceChildren(...answer.products.map(productCard));
  if (focused) $("grid").querySelector(`[aria-label="${CSS.escape(focused)}"]`)?.focus();
  $("discount").hidden = answer.discountPercent === 0;
  $("discount").textContent = `${answer.discountPercent} % off everything, today`;
  drawCart();
});

async function loadProducts() {
  try {
    drawProducts(await api("GET", "/products"));
    trouble("products-trouble", null);
  } catch (error) { trouble("products-trouble", error); }
}

const drawBanner = drawOnChange((text) => {
  $("banner").hidden = !text;
  $("banner").textContent = text ?? "";
});

async function loadBanner() {
  drawBanner((await api("GET", "/banner")).banner);
}

// ---- cart

const inCart = (id) => shop.cart.lines.find((line) => line.id === id)?.quantity ?? 0;

async function setQuantity(id, quantity) {
  try {
    shop.cart = await api("PUT", `/cart/lines/${id}`, { quantity });
    shop.checkoutKey = null;
    drawCart();
    loadRecommendations();
  } catch (error) { toast(error.message); }
}

async function add(id) {
  await setQuantity(id, inCart(id) + 1);
  const product = shop.products.find((one) => one.id === id);
  if (inCart(id) > 0) toast(`${product?.name ?? id} is in your cart`);
}

function cartLine({ id, quantity }) {
  const product = shop.products.find((one) => one.id === id);
  const name = product?.name ?? id;
  const step = (by, label, sign) => el("button", {
    type: "button", class: "step", "aria-label": `${label} ${name}`, onclick: () => setQuantity(id, quantity + by),
  }, sign);
  return el("li", {},
    el("div", { class: `thumb tint-${id}` }, art(id)),
    el("div", { class: "cart-name" }, el("strong", {}, name), el("span", {}, product ? money(product.priceCents) : "")),
    el("div", { class: "steps" }, step(-1, "One less", "−"), el("b", {}, String(quantity)), step(1, "One more", "+")),
    el("span", { class: "line-sum" }, product ? money(product.priceCents * quantity) : ""));
}

function drawCart() {
  const lines = shop.cart.lines;
  const sum = (field) => lines.reduce((total, line) => {
    const product = shop.products.find((one) => one.id === line.id);
    return total + (product ? product[field] * line.quantity : 0);
  }, 0);
  const count = lines.reduce((total, line) => total + line.quantity, 0);
  const saving = sum("listCents") - sum("priceCents");
  $("cart-lines").replaceChildren(...lines.map(cartLine));
  $("cart-count").hidden = count === 0;
  $("cart-count").textContent = count;
  $("cart-empty").hidden = count > 0;
  $("pay").disabled = count === 0;
  $("saving-row").hidden = saving === 0;
  $("saving").textContent = money(saving);
  $("total").textContent = money(sum("priceCents"));
}

async function checkout(event) {
  event.preventDefault();
  $("pay").disabled = true;
  $("pay").textContent = "Placing the order …";
  // One key per attempt: pressing again after an answer that was lost on the way never buys twice.
  shop.checkoutKey ??= crypto.getRandomValues(new Uint32Array(4)).join("-");
  try {
    const headers = { "idempotency-key": shop.checkoutKey };
    const order = await api("POST", "/orders", { customer: $("customer").value.trim() }, headers);
    shop.checkoutKey = null;
    shop.cart = { lines: [] };
    trouble("checkout-trouble", null);
    $("cart").close();
    toast(`Thank you! ${money(order.totalCents)}, order ${order.id}`);
    $("activity").scrollIntoView({ behavior: "smooth", block: "center" });
    loadProducts();
    loadOrders();
  } catch (error) {
    const lost = error.status === undefined || error.status === 502 || error.status === 504;
    if (!lost) shop.checkoutKey = null;
    trouble("checkout-trouble", error);
  }
  $("pay").textContent = "Place the order";
  drawCart();
}

// ---- orders, notifications

const clock = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

function orderRow(order) {
  const isNew = shop.seenOrders !== null && !shop.seenOrders.has(order.id);
  const things = order.lines.map((line) => (line.quantity > 1 ? `${line.quantity} × ${line.name}` : line.name));
  return el("li", { class: isNew ? "fresh" : null },
    el("div", { class: "thumbs" }, ...order.lines.slice(0, 3).map(({ id }) =>
      el("span", { class: `thumb tint-${id}` }, art(id)))),
    el("div", { class: "order-what" },
      el("strong", {}, order.customer), el("span", {}, things.join(", ")),
      el("code", { title: `receipt signed with ${order.receipt.algorithm}: ${order.receipt.signature}` },
        `${order.id} · signed ${order.receipt.signature.slice(0, 8)}`)),
    el("div", { class: "order-sum" },
      el("b", {}, money(order.totalCents)), el("time", {}, clock.format(new Date(order.placedAtMs)))));
}

const drawOrders = drawOnChange((orders) => {
  $("orders-empty").hidden = orders.length > 0;
  $("orders").replaceChildren(...orders.map(orderRow));
  shop.seenOrders = new Set(orders.map((order) => order.id));
});

async function loadOrders() {
  drawOrders((await api("GET", "/orders")).orders.slice(0, 8));
}

const drawNotes = drawOnChange((notes) => {
  $("notes-empty").hidden = notes.length > 0;
  $("notes").replaceChildren(...notes.map((note) =>
    el("li", {}, el("span", { class: "dot on" }), el("div", {}, el("p", {}, note.text), el("code", {}, note.orderId)))));
});

async function loadNotes() {
  drawNotes((await api("GET", "/notifications")).notifications.slice(0, 8));
}

// ---- what the shop can do without

const drawRecommendations = drawOnChange(({ available, products }) => {
  $("recommended-trouble").hidden = available;
  $("recommended").hidden = !available;
  $("recommended").replaceChildren(...products.map((product) =>
    el("li", {}, el("button", { type: "button", onclick: () => add(product.id), "aria-label": `Add ${product.name}` },
      el("span", { class: `thumb tint-${product.id}` }, art(product.id)),
      el("span", {}, el("strong", {}, product.name), el("em", {}, product.reason),
        el("span", { class: "price" }, money(product.priceCents)))))));
});

async function loadRecommendations() {
  if (shop.products.length === 0) return;
  let answer = { available: false, products: [] };
  try {
    const ids = shop.cart.lines.map((line) => line.id).join(",");
    answer = await api("GET", `/recommendations?with=${ids}`);
    // With today's prices: a discount that is set meanwhile is a change to draw.
    const known = answer.products.map((one) => ({ ...shop.products.find(({ id }) => id === one.id), reason: one.reason }));
    answer.products = known.filter((product) => product.id);
  } catch { /* shown as unavailable */ }
  drawRecommendations(answer);
}

const ROLES = {
  web: "this page and its API", catalog: "products, prices, stock", orders: "carts, checkout, receipts",
  notify: "hears order.placed", recommend: "what goes with what",
};

const drawApps = drawOnChange((apps) => {
  $("apps").replaceChildren(...apps.map((app) => el("li", { class: app.up ? "up" : "down" },
    el("div", { class: "app-head" }, el("span", { class: `dot ${app.up ? "on" : "off"}` }), el("strong", {}, app.app),
      el("span", { class: `shape ${app.up ? app.shape : "gone"}` }, app.up ? app.shape : "down")),
    el("p", {}, ROLES[app.app] ?? ""),
    el("code", {}, app.up ? `${app.revision} · v${app.version}` : app.reason))));
});

async function loadApps() {
  drawApps((await api("GET", "/info")).apps);
}

// ---- loops

/** Repeats `load` as long as the page is seen; the next turn waits for the last. */
async function every(milliseconds, load) {
  for (;;) {
    if (!document.hidden) await load().catch(() => {});
    await new Promise((next) => setTimeout(next, milliseconds));
  }
}

async function start() {
  $("open-cart").addEventListener("click", () => { trouble("checkout-trouble", null); $("cart").showModal(); });
  $("close-cart").addEventListener("click", () => $("cart").close());
  $("cart").addEventListener("click", (event) => { if (event.target === $("cart")) $("cart").close(); });
  $("checkout").addEventListener("submit", checkout);
  // The first answer gives the visitor a name; what follows may then run side by side.
  await loadProducts();
  await api("GET", "/cart").then((cart) => { shop.cart = cart; }).catch(() => {});
  drawCart();
  every(2500, loadProducts);
  every(2500, loadBanner);
  every(1500, loadOrders);
  every(1500, loadNotes);
  every(4000, loadRecommendations);
  every(3000, loadApps);
}

start();
