package polyglot;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import io.dapr.client.DaprClient;
import io.dapr.client.DaprClientBuilder;
import io.dapr.client.DaprPreviewClient;
import io.dapr.client.domain.CloudEvent;
import io.dapr.client.domain.HttpExtension;
import io.dapr.client.domain.State;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Executors;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

/** Writes an invoice for each order that is placed. The server is the JDK's; everything else is Dapr's client. */
public final class Billing {
  private static final String STATE = "state";
  private static final String PUBSUB = "shop-pubsub";
  private static final String LOCKS = "locks";
  private static final String CONFIG = "config";
  private static final String SECRETS = "secrets";
  private static final String PAPERS = "papers";

  private static final ObjectMapper JSON = new ObjectMapper();

  private final DaprClient dapr = new DaprClientBuilder().build();
  // Locks are in the part of the client that may still change.
  private final DaprPreviewClient preview = new DaprClientBuilder().buildPreviewClient();

  /** What an invoice says. */
  public record Invoice(String number, String orderId, long netCents, long taxCents, String seal) {}

  public static void main(String[] arguments) throws Exception {
    new Billing().serve(Integer.parseInt(System.getenv("APP_PORT")));
  }

  private void serve(int port) throws IOException {
    HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 0);
    server.setExecutor(Executors.newFixedThreadPool(4));
    server.createContext("/dapr/subscribe", call ->
        answer(call, 200, List.of(Map.of("pubsubname", PUBSUB, "topic", "order.placed", "route", "/placed"))));
    server.createContext("/placed", call -> {
      try {
        bill(CloudEvent.deserialize(call.getRequestBody().readAllBytes()));
        answer(call, 200, Map.of("status", "SUCCESS"));
      } catch (Exception failed) {
        System.err.println("an order is not billed yet: " + failed);
        answer(call, 200, Map.of("status", "RETRY"));
      }
    });
    server.start();
  }

  private void bill(CloudEvent<?> event) throws Exception {
    String id = JSON.valueToTree(event.getData()).get("orderId").asText();
    JsonNode order = dapr.invokeMethod("orders", "orders/" + id, null, HttpExtension.GET, JsonNode.class).block();
    Invoice invoice = invoiceOf(id, order);
    dapr.invokeBinding(PAPERS, "create", JSON.writeValueAsBytes(invoice), Map.of("fileName", id + "/invoice.json")).block();
    Map<String, Object> billed = Map.of(
        "orderId", id,
        "item", order.get("item").asText(),
        "quantity", order.get("quantity").asInt(),
        "invoice", invoice);
    dapr.publishEvent(PUBSUB, "order.billed", billed).block();
  }

  /** The invoice of an order: written once, however often its event comes. Invoices are numbered without gaps. */
  private Invoice invoiceOf(String id, JsonNode order) throws Exception {
    String owner = "billing-" + ProcessHandle.current().pid() + "-" + id;
    while (!preview.tryLock(LOCKS, "invoices", owner, 10).block()) {
      Thread.sleep(10);
    }
    try {
      State<Invoice> kept = dapr.getState(STATE, "invoice-of-" + id, Invoice.class).block();
      if (kept.getValue() != null) {
        return kept.getValue();
      }
      State<Integer> last = dapr.getState(STATE, "last-invoice", Integer.class).block();
      int number = last.getValue() == null ? 1 : last.getValue() + 1;
      long net = order.get("totalCents").asLong();
      long tax = net * taxPercent() / 100;
      Invoice invoice = new Invoice("invoice-" + number, id, net, tax, seal("invoice-" + number + "|" + (net + tax)));
      dapr.saveBulkState(STATE, List.of(
          new State<>("last-invoice", number, null),
          new State<>("invoice-of-" + id, invoice, null))).block();
      return invoice;
    } finally {
      preview.unlock(LOCKS, "invoices", owner).block();
    }
  }

  private int taxPercent() {
    var item = dapr.getConfiguration(CONFIG, List.of("tax-percent"), Map.of()).block().get("tax-percent");
    return item == null ? 19 : Integer.parseInt(item.getValue());
  }

  private String seal(String text) throws Exception {
    String key = dapr.getSecret(SECRETS, "billing-key").block().get("billing-key");
    Mac mac = Mac.getInstance("HmacSHA256");
    mac.init(new SecretKeySpec(key.getBytes(StandardCharsets.UTF_8), "HmacSHA256"));
    return HexFormat.of().formatHex(mac.doFinal(text.getBytes(StandardCharsets.UTF_8)));
  }

  private static void answer(HttpExchange call, int status, Object value) throws IOException {
    byte[] body = JSON.writeValueAsBytes(value);
    call.getResponseHeaders().set("content-type", "application/json");
    call.sendResponseHeaders(status, body.length);
    try (var out = call.getResponseBody()) {
      out.write(body);
    }
  }
}
