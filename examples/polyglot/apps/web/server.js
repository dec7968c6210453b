// The door: what a customer calls. An app that knows neither Dodai nor Dapr: Express, fetch, a URL for each app it calls.

import express from "express";

const { ORDERS_URL, NOTIFY_URL, PORT } = process.env;
const app = express();

app.use(express.json());

app.post("/orders", async (request, response) => {
  await pass(response, `${ORDERS_URL}/orders`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(request.body),
  });
});

app.get("/orders/:id", (request, response) => pass(response, `${ORDERS_URL}/orders/${request.params.id}`));

app.get("/notifications", (_, response) => pass(response, `${NOTIFY_URL}/notifications`));

async function pass(response, url, init) {
  const answer = await fetch(url, init);
  response.status(answer.status).json(await answer.json());
}

app.listen(Number(PORT), "127.0.0.1");
