package polyglot;

import com.sun.net.httpserver.HttpServer;
import io.dapr.client.DaprClient;
import io.dapr.client.DaprClientBuilder;
import io.dapr.client.DaprPreviewClient;
import io.dapr.client.SubscriptionListener;
import io.dapr.client.domain.CloudEvent;
import io.dapr.client.domain.HttpExtension;
import io.dapr.client.domain.State;
import io.dapr.client.domain.StateOptions;
import io.dapr.client.domain.TransactionalStateOperation;
import io.dapr.client.domain.TransactionalStateOperation.OperationType;
import io.dapr.client.domain.UnlockResponseStatus;
import io.dapr.exceptions.DaprErrorDetails.ErrorDetailType;
import io.dapr.exceptions.DaprException;
import io.dapr.utils.TypeRef;
import java.net.InetSocketAddress;
import java.time.Duration;
import java.time.OffsetDateTime;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import reactor.core.publisher.Mono;

/**
 * Dapr's own Java SDK against the sidecar beside this program, which is an app itself. Says {@code following} once it
 * hears of changes of the configuration, and {@code ok} when everything was as the SDK's users expect it.
 */
public final class Sdk {
  private static final Duration PATIENCE = Duration.ofSeconds(60);
  private static final StateOptions FIRST_WRITE =
      new StateOptions(StateOptions.Consistency.STRONG, StateOptions.Concurrency.FIRST_WRITE);

  private final DaprClient dapr = new DaprClientBuilder().build();
  private final DaprPreviewClient preview = new DaprClientBuilder().buildPreviewClient();
  private final BlockingQueue<String> heard = new LinkedBlockingQueue<>();

  public static void main(String[] arguments) {
    try {
      new Sdk().run();
      System.out.println("ok");
    } catch (Throwable failed) {
      failed.printStackTrace();
    }
    // The server's threads would go on.
    System.exit(0);
  }

  private void run() throws Exception {
    serve(Integer.parseInt(System.getenv("APP_PORT")));
    dapr.waitForSidecar((int) PATIENCE.toMillis()).block();
    state();
    messages();
    configuration();
    locks();
    rest();
    dapr.shutdown().block(PATIENCE);
  }

  private static void same(Object got, Object expect) {
    if (!Objects.equals(got, expect)) {
      throw new AssertionError("got " + got + " instead of " + expect);
    }
  }

  private static void refused(String code, String reason, Mono<?> call) {
    try {
      call.block(PATIENCE);
    } catch (DaprException told) {
      same(told.getErrorCode(), code);
      same(told.getErrorDetails().get(ErrorDetailType.ERROR_INFO, "reason", TypeRef.STRING), reason);
      return;
    }
    throw new AssertionError("nothing was refused; " + code + " was expected");
  }

  private void serve(int port) throws Exception {
    HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 0);
    Map<String, String> answers = Map.of(
        "/dapr/subscribe", "[{\"pubsubname\": \"pubsub\", \"topic\": \"orders\", \"route\": \"/orders\"}]",
        "/orders", "{\"status\": \"SUCCESS\"}");
    server.createContext("/", call -> {
      byte[] body = call.getRequestBody().readAllBytes();
      String path = call.getRequestURI().getPath();
      if (path.equals("/orders")) {
        heard.add(String.valueOf(CloudEvent.deserialize(body).getData()));
      }
      byte[] answer = answers.getOrDefault(path, "").getBytes();
      call.sendResponseHeaders(answers.containsKey(path) ? 200 : 404, answer.length == 0 ? -1 : answer.length);
      call.getResponseBody().write(answer);
      call.close();
    });
    server.start();
  }

  private <T> T get(String key, Class<T> type) {
    return dapr.getState("statestore", key, type).block(PATIENCE).getValue();
  }

  private void state() {
    dapr.saveState("statestore", "k", null, "one", Map.of("ttlInSeconds", "600"), null).block(PATIENCE);
    State<String> got = dapr.getState("statestore", "k", String.class).block(PATIENCE);
    same(got.getValue(), "one");
    OffsetDateTime.parse(got.getMetadata().get("ttlExpireTime"));
    refused("ABORTED", "ERR_STATE_SAVE", dapr.saveState("statestore", "k", "999", "x", FIRST_WRITE));
    dapr.saveState("statestore", "k", got.getEtag(), "two", FIRST_WRITE).block(PATIENCE);
    same(get("k", String.class), "two");
    dapr.saveBulkState("statestore", List.of(
        new State<>("a", 1, null), new State<>("b", Map.of("n", 2), null))).block(PATIENCE);
    List<State<Object>> bulk =
        dapr.getBulkState("statestore", List.of("a", "b", "none"), Object.class).block(PATIENCE);
    same(bulk.stream().map(State::getValue).toList().toString(), "[1, {n=2}, null]");
    dapr.executeStateTransaction("statestore", List.of(
        new TransactionalStateOperation<>(OperationType.UPSERT, new State<>("a", 3, null)),
        new TransactionalStateOperation<>(OperationType.DELETE, new State<>("b")))).block(PATIENCE);
    same(get("a", Integer.class), 3);
    same(get("b", Object.class), null);
    dapr.deleteState("statestore", "a").block(PATIENCE);
    same(get("a", Integer.class), null);
    refused("INVALID_ARGUMENT", "DAPR_STATE_NOT_FOUND", dapr.getState("nowhere", "k", String.class));
  }

  private void messages() throws Exception {
    String got = null;
    while (got == null) {
      // Until the sidecar has asked for subscriptions, nobody hears.
      dapr.publishEvent("pubsub", "orders", Map.of("n", 1)).block(PATIENCE);
      got = heard.poll(100, TimeUnit.MILLISECONDS);
    }
    same(got, "{n=1}");
    BlockingQueue<String> streamed = new LinkedBlockingQueue<>();
    AtomicInteger tries = new AtomicInteger();
    var listener = new SubscriptionListener<String>() {
      @Override
      public Mono<Status> onEvent(CloudEvent<String> event) {
        if (tries.incrementAndGet() == 1) {
          return Mono.just(Status.RETRY);
        }
        streamed.add(event.getData());
        return Mono.just(Status.SUCCESS);
      }

      @Override
      public void onError(RuntimeException error) {
        streamed.add("failed: " + error);
      }
    };
    var stream = preview.subscribeToEvents("pubsub", "streamed", listener, TypeRef.STRING);
    String first = null;
    while (first == null) {
      // The call returns before the stream has been joined.
      same(dapr.publishEvents("pubsub", "streamed", "application/json", "one").block(PATIENCE).getFailedEntries(), List.of());
      first = streamed.poll(100, TimeUnit.MILLISECONDS);
    }
    same(first, "one");
    same(tries.get() >= 2, true);
    stream.close();
  }

  private void configuration() throws Exception {
    BlockingQueue<String> news = new LinkedBlockingQueue<>();
    BlockingQueue<String> id = new LinkedBlockingQueue<>();
    var following = dapr.subscribeConfiguration("config", "colour").subscribe(told -> {
      if (id.isEmpty()) {
        id.add(told.getSubscriptionId());
      }
      told.getItems().values().forEach(item -> news.add(item.getValue()));
    });
    System.out.println("following");
    same(news.poll(60, TimeUnit.SECONDS), "red");
    same(dapr.getConfiguration("config", "colour").block(PATIENCE).getValue(), "red");
    same(dapr.unsubscribeConfiguration(id.take(), "config").block(PATIENCE).getIsUnsubscribed(), true);
    following.dispose();
  }

  private void locks() {
    same(preview.tryLock("locks", "door", "me", 60).block(PATIENCE), true);
    same(preview.tryLock("locks", "door", "you", 60).block(PATIENCE), false);
    same(preview.unlock("locks", "door", "you").block(PATIENCE), UnlockResponseStatus.LOCK_BELONG_TO_OTHERS);
    same(preview.unlock("locks", "door", "me").block(PATIENCE), UnlockResponseStatus.SUCCESS);
  }

  private void rest() {
    same(dapr.getSecret("vault", "password").block(PATIENCE), Map.of("password", "hunter2"));
    same(dapr.getBulkSecret("vault").block(PATIENCE), Map.of("password", Map.of("password", "hunter2")));
    Map<String, String> file = Map.of("fileName", "java.txt");
    dapr.invokeBinding("files", "create", "from java".getBytes(), file).block(PATIENCE);
    same(new String(dapr.invokeBinding("files", "get", new byte[0], file).block(PATIENCE)), "from java");
    refused("INTERNAL", "ERR_INVOKE_OUTPUT_BINDING", dapr.invokeBinding("files", "paint", new byte[0], file));
    byte[] told = dapr.invokeMethod("orders", "orders", "one".getBytes(), HttpExtension.POST, Map.of()).block(PATIENCE);
    same(new String(told), "got one");
    try {
      dapr.invokeMethod("orders", "nothing", null, HttpExtension.GET, byte[].class).block(PATIENCE);
      throw new AssertionError("there is no such method");
    } catch (DaprException error) {
      same(error.getHttpStatusCode(), 404);
    }
    var about = dapr.getMetadata().block(PATIENCE);
    same(about.getId(), "peer");
    same(about.getComponents().stream().map(one -> one.getName()).toList(),
        List.of("config", "files", "locks", "pubsub", "statestore", "vault"));
  }
}
