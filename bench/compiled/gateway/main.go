// The gateway that agm is compared with: as small as one can be that reads JSON, on one core.
//
// It knows one upstream and one account.  With -wrap it puts a request into the v1internal envelope and takes each
// document of the answer out of it, decoding and encoding JSON with the standard library, as compiled gateways do.
// Without, it reads the request's JSON and passes the bytes of the answer on as they come.  It authenticates nobody,
// counts nothing, retries nothing and has no limits.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
)

var (
	upstream = flag.String("upstream", "", "address of the upstream")
	wrap     = flag.Bool("wrap", false, "speak v1internal to the upstream")
	client   = &http.Client{Transport: &http.Transport{MaxIdleConns: 4096, MaxIdleConnsPerHost: 4096}}
)

type document = map[string]any

// The request to the upstream for one of a client's.
func outgoing(r *http.Request) (*http.Request, bool, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, false, err
	}
	var asked document
	if err := json.Unmarshal(body, &asked); err != nil {
		return nil, false, err
	}
	_, target, _ := strings.Cut(r.URL.Path, "/models/")
	colon := strings.LastIndexByte(target, ':')
	if colon < 0 {
		return nil, false, fmt.Errorf("%s names no method", r.URL.Path)
	}
	model, method := target[:colon], target[colon+1:]
	path := r.URL.Path
	if *wrap {
		path = "/v1internal:" + method
		body, err = json.Marshal(document{
			"project": "bench", "model": model, "requestId": "bench", "requestType": "agent", "request": asked,
		})
		if err != nil {
			return nil, false, err
		}
	}
	streamed := method == "streamGenerateContent"
	if streamed {
		path += "?alt=sse"
	}
	made, err := http.NewRequestWithContext(r.Context(), http.MethodPost, *upstream+path, bytes.NewReader(body))
	if err != nil {
		return nil, false, err
	}
	made.Header.Set("Content-Type", "application/json")
	made.Header.Set("Authorization", "Bearer bench-token")
	return made, streamed, nil
}

// A document without its envelope.
func unwrapped(data []byte) ([]byte, error) {
	var whole document
	if err := json.Unmarshal(data, &whole); err != nil {
		return nil, err
	}
	inner, found := whole["response"]
	if !found {
		return data, nil
	}
	return json.Marshal(inner)
}

func passOn(w http.ResponseWriter, from io.Reader) error {
	piece := make([]byte, 32*1024)
	for {
		n, err := from.Read(piece)
		if n > 0 {
			w.Write(piece[:n])
			w.(http.Flusher).Flush()
		}
		if err != nil {
			return err
		}
	}
}

func unwrapEvents(w http.ResponseWriter, from io.Reader) error {
	lines := bufio.NewReaderSize(from, 64*1024)
	for {
		line, err := lines.ReadBytes('\n')
		if data := bytes.TrimRight(line, "\r\n"); bytes.HasPrefix(data, []byte("data: ")) {
			inner, err := unwrapped(data[len("data: "):])
			if err != nil {
				return err
			}
			w.Write([]byte("data: "))
			w.Write(inner)
			w.Write([]byte("\r\n\r\n"))
			w.(http.Flusher).Flush()
		}
		if err != nil {
			return err
		}
	}
}

func serve(w http.ResponseWriter, r *http.Request) {
	request, streamed, err := outgoing(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer, err := client.Do(request)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer answer.Body.Close()
	w.Header().Set("Content-Type", answer.Header.Get("Content-Type"))
	w.WriteHeader(answer.StatusCode)
	switch {
	case streamed && *wrap:
		err = unwrapEvents(w, answer.Body)
	case streamed:
		err = passOn(w, answer.Body)
	case !*wrap:
		_, err = io.Copy(w, answer.Body)
	default:
		var whole []byte
		if whole, err = io.ReadAll(answer.Body); err == nil {
			if whole, err = unwrapped(whole); err == nil {
				w.Write(whole)
			}
		}
	}
	if err != nil && err != io.EOF {
		panic(http.ErrAbortHandler) // the client must not take half an answer for a whole one
	}
}

func main() {
	flag.Parse()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("http://127.0.0.1:%d\n", listener.Addr().(*net.TCPAddr).Port)
	log.Fatal(http.Serve(listener, http.HandlerFunc(serve)))
}
