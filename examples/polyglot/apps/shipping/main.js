// Ships what is billed: asks for a courier, prints the label, tells that the parcel is on its way.

import { createHmac } from "node:crypto";
import { CommunicationProtocolEnum, DaprClient, DaprServer, HttpMethod } from "@dapr/dapr";

const [STATE, PUBSUB, LOCKS, CONFIG, SECRETS, PAPERS] =
  ["state", "shop-pubsub", "locks", "config", "secrets", "papers"];

const server = new DaprServer({ serverHost: "127.0.0.1", serverPort: process.env.APP_PORT });
const dapr = server.client;
// The client follows configuration over gRPC only.
const following = new DaprClient({ communicationProtocol: CommunicationProtocolEnum.GRPC });

let greeting = "With our thanks";
const wanted = ["label-greeting"];
const take = ({ items }) => {
  greeting = items[wanted[0]]?.value ?? greeting;
};

async function ship({ orderId, item, quantity, invoice }) {
  const parcel = `parcel-of-${orderId}`;
  // An event may come twice, and to another instance: one of them ships.
  const { success } = await dapr.lock.lock(LOCKS, parcel, `shipping-${process.pid}`, 30);
  if (!success) throw new Error(`${parcel} is being shipped`);
  try {
    let label = await dapr.state.get(STATE, parcel);
    if (!label) {
      const query = new URLSearchParams({ item, quantity });
      const quote = await dapr.invoker.invoke("couriers", `quote?${query}`, HttpMethod.GET);
      const { "shipping-key": key } = await dapr.secret.get(SECRETS, "shipping-key");
      const seal = createHmac("sha256", key).update(`${parcel}|${quote.courier}`).digest("hex");
      label = { parcel, courier: quote.courier, grams: quote.grams, greeting, seal };
      // A save that fails throws nothing: the event is to come again.
      const { error } = await dapr.state.save(STATE, [{ key: parcel, value: label }]);
      if (error) throw error;
    }
    await dapr.binding.send(PAPERS, "create", label, { fileName: `${orderId}/label.json` });
    await dapr.pubsub.publish(PUBSUB, "order.shipped", { orderId, invoice, parcel: label });
  } finally {
    await dapr.lock.unlock(LOCKS, parcel, `shipping-${process.pid}`);
  }
}

await server.pubsub.subscribe(PUBSUB, "order.billed", ship);
await server.start();
take(await following.configuration.get(CONFIG, wanted));
await following.configuration.subscribeWithKeys(CONFIG, wanted, async (news) => take(news));
