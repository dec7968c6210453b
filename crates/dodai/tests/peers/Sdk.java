package polyglot;

import com.fasterxml.jackson.core.type.TypeReference;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.sun.net.httpserver.HttpServer;
import io.dapr.client.DaprClient;
import io.dapr.client.DaprClientBuilder;
import io.dapr.client.DaprPreviewClient;
import io.dapr.client.SubscriptionListener;
import io.dapr.client.domain.BulkSubscribeAppResponse;
import io.dapr.client.domain.BulkSubscribeAppResponseEntry;
import io.dapr.client.domain.BulkSubscribeAppResponseStatus;
import io.dapr.client.domain.BulkSubscribeMessage;
import io.dapr.client.domain.CloudEvent;
import io.dapr.client.domain.DeleteJobRequest;
import io.dapr.client.domain.DropFailurePolicy;
import io.dapr.client.domain.FailurePolicyType;
import io.dapr.client.domain.GetJobRequest;
import io.dapr.client.domain.HttpExtension;
import io.dapr.client.domain.JobSchedule;
import io.dapr.client.domain.ScheduleJobRequest;
import io.dapr.client.domain.State;
import io.dapr.client.domain.StateOptions;
import io.dapr.client.domain.TransactionalStateOperation;
import io.dapr.client.domain.TransactionalStateOperation.OperationType;
import io.dapr.client.domain.UnlockResponseStatus;
import io.dapr.exceptions.DaprErrorDetails.ErrorDetailType;
import io.dapr.exceptions.DaprException;
import io.dapr.utils.TypeRef;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.time.Duration;
import java.time.Instant;
import java.time.OffsetDateTime;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.ConcurrentHashMap;
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

  /** As Spring has it, which reads what comes in bulk for the SDK's users. */
  private static final ObjectMapper JSON =
      new ObjectMapper().configure(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES, false);

  private final DaprClient dapr = new DaprClientBuilder().build();
  private final DaprPreviewClient preview = new DaprClientBuilder().buildPreviewClient();
  private final BlockingQueue<String> heard = new LinkedBlockingQueue<>();
  private final BlockingQueue<String> bulk = new LinkedBlockingQueue<>();
  private final Set<String> seen = ConcurrentHashMap.newKeySet();
  private final BlockingQueue<String> ran = new LinkedBlockingQueue<>();
  private final BlockingQueue<String> ticks = new LinkedBlockingQueue<>();

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
    bulk();
    jobs();
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
    server.createContext("/", call -> {
      byte[] answer = answer(call.getRequestMethod(), call.getRequestURI().getPath(), call.getRequestBody().readAllBytes());
      int status = answer == null ? 404 : 200;
      call.sendResponseHeaders(status, answer == null || answer.length == 0 ? -1 : answer.length);
      if (status == 200) {
        call.getResponseBody().write(answer);
      }
      call.close();
    });
    server.start();
  }

  /** What this app answers; null to what it does not know. */
  private byte[] answer(String method, String path, byte[] body) throws IOException {
    switch (path) {
      case "/dapr/subscribe":
        return ("[{\"pubsubname\": \"pubsub\", \"topic\": \"orders\", \"route\": \"/orders\"}, {\"pubsubname\": \"pubsub\","
            + "\"topic\": \"bulk\", \"route\": \"/bulk\", \"bulkSubscribe\": {\"enabled\": true, \"maxMessagesCount\": 10,"
            + "\"maxAwaitDurationMs\": 50}}]").getBytes();
      case "/orders":
        heard.add(String.valueOf(CloudEvent.deserialize(body).getData()));
        return "{\"status\": \"SUCCESS\"}".getBytes();
      case "/bulk":
        return answerBulk(body);
      case "/job/report":
        ran.add(new String(body));
        return new byte[0];
      case "/tick":
        // It is asked first whether it takes them.
        if (method.equals("POST")) {
          ticks.add(new String(body));
        }
        return new byte[0];
      default:
        return null;
    }
  }

  /** Each is to come again once. */
  private byte[] answerBulk(byte[] body) throws IOException {
    BulkSubscribeMessage<CloudEvent<String>> told = JSON.readValue(body, new TypeReference<>() { });
    List<BulkSubscribeAppResponseEntry> entries = told.getEntries().stream().map(entry -> {
      String data = entry.getEvent().getData();
      var status = seen.add(data) ? BulkSubscribeAppResponseStatus.RETRY : BulkSubscribeAppResponseStatus.SUCCESS;
      bulk.add(data);
      return new BulkSubscribeAppResponseEntry(entry.getEntryId(), status);
    }).toList();
    return JSON.writeValueAsBytes(new BulkSubscribeAppResponse(entries));
  }

  private void bulk() throws Exception {
    same(dapr.publishEvents("pubsub", "bulk", "text/plain", "one", "two").block(PATIENCE).getFailedEntries(), List.of());
    String[] came = new String[4];
    for (int at = 0; at < came.length; at++) {
      came[at] = bulk.poll(30, TimeUnit.SECONDS);
    }
    same(Arrays.stream(came).map(String::valueOf).sorted().toList(), List.of("one", "one", "two", "two"));
  }

  private void jobs() throws Exception {
    var job = new ScheduleJobRequest("report", JobSchedule.hourly()).setDueTime(Instant.now()).setRepeat(2)
        .setData("{\"n\":1}".getBytes()).setFailurePolicy(new DropFailurePolicy());
    dapr.scheduleJob(job).block(PATIENCE);
    same(ran.poll(30, TimeUnit.SECONDS), "{\"n\":1}");
    var got = dapr.getJob(new GetJobRequest("report")).block(PATIENCE);
    same(List.of(got.getSchedule().getExpression(), got.getRepeats(), new String(got.getData())),
        List.of(JobSchedule.hourly().getExpression(), 2, "{\"n\":1}"));
    same(got.getFailurePolicy().getFailurePolicyType(), FailurePolicyType.DROP);
    dapr.deleteJob(new DeleteJobRequest("report")).block(PATIENCE);
    try {
      dapr.getJob(new GetJobRequest("report")).block(PATIENCE);
      throw new AssertionError("the job is gone");
    } catch (DaprException gone) {
      same(gone.getErrorCode(), "INTERNAL");
    }
    same(ticks.poll(30, TimeUnit.SECONDS), "");
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
        List.of("config", "files", "locks", "pubsub", "statestore", "tick", "vault"));
  }
}
