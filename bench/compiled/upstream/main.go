// The upstream of the benchmarks: answers in Gemini's form, or in the v1internal envelope where the path asks for it,
// with bytes that were made at its start.  It prints its address, and what it serves never changes.
//
// A stream is -events events, -gap apart; no gap is a burst.  With -hold it stays open after them, until the client
// leaves.  With -tls FILE it speaks TLS, and writes its certificate to FILE.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

var (
	events = flag.Int("events", 20, "events of a stream")
	gap    = flag.Duration("gap", 0, "time between two events")
	text   = flag.Int("text", 200, "bytes of text in an answer or event")
	hold   = flag.Bool("hold", false, "leave a stream open after its events")
	cert   = flag.String("tls", "", "speak TLS, and write the certificate to this file")
)

// What is sent for one form of answer: a document, and the events of a stream.
type answers struct {
	unary  []byte
	stream [][]byte
}

func made(wrapped bool) answers {
	document := func(last bool) []byte {
		candidate := map[string]any{
			"content": map[string]any{"role": "model", "parts": []any{map[string]any{"text": strings.Repeat("x", *text)}}},
		}
		if last {
			candidate["finishReason"] = "STOP"
		}
		var answer any = map[string]any{
			"candidates":    []any{candidate},
			"usageMetadata": map[string]any{"promptTokenCount": 4, "candidatesTokenCount": 50, "totalTokenCount": 54},
			"modelVersion":  "gemini-2.5-flash",
			"responseId":    "bench",
		}
		if wrapped {
			answer = map[string]any{"response": answer, "traceId": "bench"}
		}
		bytes, err := json.Marshal(answer)
		if err != nil {
			log.Fatal(err)
		}
		return bytes
	}
	made := answers{unary: document(true)}
	for n := 1; n <= *events; n++ {
		made.stream = append(made.stream, []byte("data: "+string(document(n == *events))+"\r\n\r\n"))
	}
	return made
}

func answer(w http.ResponseWriter, r *http.Request, with answers) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return
	}
	if !strings.Contains(r.URL.Path, "streamGenerateContent") {
		w.Header().Set("Content-Type", "application/json; charset=UTF-8")
		w.Write(with.unary)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for n, event := range with.stream {
		if n > 0 && *gap > 0 {
			time.Sleep(*gap)
		}
		if _, err := w.Write(event); err != nil {
			return
		}
		w.(http.Flusher).Flush()
	}
	if *hold {
		<-r.Context().Done()
	}
}

// A certificate for 127.0.0.1, for as long as the process lives.
func certificate() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	of := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "agm benchmark"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		DNSNames:              []string{"localhost"},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, of, of, &key.PublicKey, key)
	if err != nil {
		log.Fatal(err)
	}
	file := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(*cert, file, 0o600); err != nil {
		log.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func main() {
	flag.Parse()
	plain, wrapped := made(false), made(true)
	serve := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v1internal") {
			answer(w, r, wrapped)
		} else {
			answer(w, r, plain)
		}
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	scheme := "http"
	server := &http.Server{Handler: serve}
	if *cert != "" {
		// HTTP/1.1 alone, as what is measured speaks it
		server.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
		listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{certificate()}})
		scheme = "https"
	}
	fmt.Printf("%s://127.0.0.1:%d\n", scheme, listener.Addr().(*net.TCPAddr).Port)
	log.Fatal(server.Serve(listener))
}
