// Finds speech in raw audio from standard input as it arrives: mono, signed 16-bit, 16 kHz. feed [ADDRESS]
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "feed/stubs/tidemill/v1"
)

// send opens the stream, sends the audio and half-closes. Send blocks while the window is full.
func send(stream pb.InferenceService_FeedClient) error {
	config := &pb.StreamConfig{Model: "silero-vad", Payload: pb.PayloadKind_PAYLOAD_KIND_PCM_S16LE}
	if err := stream.Send(&pb.FeedRequest{Message: &pb.FeedRequest_Open{Open: config}}); err != nil {
		return err
	}
	for {
		chunk := make([]byte, 3200)
		n, err := os.Stdin.Read(chunk)
		if err == io.EOF {
			return stream.CloseSend()
		} else if err != nil {
			return err
		}
		if err := stream.Send(&pb.FeedRequest{Message: &pb.FeedRequest_Chunk{Chunk: chunk[:n]}}); err != nil {
			return err
		}
	}
}

func main() {
	address := "127.0.0.1:50051"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	stream, err := pb.NewInferenceServiceClient(connection).Feed(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		// io.EOF says that the server ended the stream; Recv has the status.
		if err := send(stream); err != nil && err != io.EOF {
			log.Fatal(err)
		}
	}()
	for {
		response, err := stream.Recv()
		if err == io.EOF {
			return
		} else if err != nil {
			log.Fatal(err)
		}
		switch event := response.Event.(type) {
		case *pb.FeedResponse_Segment:
			fmt.Printf("speech %d ms to %d ms\n", event.Segment.StartMs, event.Segment.EndMs)
		case *pb.FeedResponse_Completed:
			fmt.Printf("%d windows, %d errors\n", event.Completed.Ok, event.Completed.Errors)
		}
	}
}
