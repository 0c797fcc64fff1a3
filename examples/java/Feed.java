// Finds speech in raw audio from standard input as it arrives: mono, signed 16-bit, 16 kHz. Feed [ADDRESS]

import com.google.protobuf.ByteString;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Status;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Semaphore;
import tidemill.v1.Inference.FeedRequest;
import tidemill.v1.Inference.FeedResponse;
import tidemill.v1.Inference.PayloadKind;
import tidemill.v1.Inference.StreamConfig;
import tidemill.v1.InferenceServiceGrpc;

public class Feed {
    /** Reads what the server says, and says when it takes more. */
    static class Events implements ClientResponseObserver<FeedRequest, FeedResponse> {
        final Semaphore changed = new Semaphore(0);
        final CountDownLatch ended = new CountDownLatch(1);
        ClientCallStreamObserver<FeedRequest> call;
        volatile int exitCode = 0;

        @Override
        public void beforeStart(ClientCallStreamObserver<FeedRequest> call) {
            this.call = call;
            call.setOnReadyHandler(changed::release);
        }

        @Override
        public void onNext(FeedResponse event) {
            switch (event.getEventCase()) {
                case SEGMENT -> System.out.printf(
                    "speech %d ms to %d ms%n", event.getSegment().getStartMs(), event.getSegment().getEndMs());
                case COMPLETED -> System.out.printf(
                    "%d windows, %d errors%n", event.getCompleted().getOk(), event.getCompleted().getErrors());
                default -> { }
            }
        }

        @Override
        public void onError(Throwable error) {
            Status status = Status.fromThrowable(error);
            System.err.println(status.getCode() + ": " + status.getDescription());
            exitCode = 1;
            onCompleted();
        }

        @Override
        public void onCompleted() {
            ended.countDown();
            changed.release();
        }

        /** Waits while the window is full: onNext would keep everything in memory. False once the stream is over. */
        boolean mayWrite() throws InterruptedException {
            while (!call.isReady() && ended.getCount() > 0) {
                changed.acquire();
            }
            return ended.getCount() > 0;
        }
    }

    public static void main(String[] args) throws Exception {
        var address = args.length > 0 ? args[0] : "127.0.0.1:50051";
        var channel = ManagedChannelBuilder.forTarget(address).usePlaintext().build();
        var events = new Events();
        InferenceServiceGrpc.newStub(channel).feed(events);

        var config = StreamConfig.newBuilder().setModel("silero-vad").setPayload(PayloadKind.PAYLOAD_KIND_PCM_S16LE);
        events.call.onNext(FeedRequest.newBuilder().setOpen(config).build());
        var chunk = new byte[3200];
        for (int read; events.mayWrite() && (read = System.in.read(chunk)) >= 0; ) {
            events.call.onNext(FeedRequest.newBuilder().setChunk(ByteString.copyFrom(chunk, 0, read)).build());
        }
        if (events.ended.getCount() > 0) {
            events.call.onCompleted();
        }
        events.ended.await();
        channel.shutdown();
        System.exit(events.exitCode);
    }
}
