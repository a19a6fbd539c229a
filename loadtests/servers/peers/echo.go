// Echo with a goroutine for each connection. Usage: echo PORT [CERTFILE KEYFILE]
package main

import (
	"crypto/tls"
	"log"
	"net"
	"os"
)

const (
	firstBufferBytes   = 4 * 1024
	largestBufferBytes = 64 * 1024
)

// echo sends back what comes. Its buffer grows while it is filled, so that idle connections stay small.
func echo(conn net.Conn) {
	defer conn.Close()
	buffer := make([]byte, firstBufferBytes)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return
		}
		if _, err = conn.Write(buffer[:n]); err != nil {
			return
		}
		if n == len(buffer) && n < largestBufferBytes {
			buffer = make([]byte, 2*n)
		}
	}
}

func listen(words []string) (net.Listener, error) {
	address := "127.0.0.1:" + words[0]
	if len(words) == 1 {
		return net.Listen("tcp", address)
	}
	certificate, err := tls.LoadX509KeyPair(words[1], words[2])
	if err != nil {
		return nil, err
	}
	return tls.Listen("tcp", address, &tls.Config{Certificates: []tls.Certificate{certificate}})
}

func main() {
	listener, err := listen(os.Args[1:])
	if err != nil {
		log.Fatal(err)
	}
	for {
		if conn, err := listener.Accept(); err == nil {
			go echo(conn)
		}
	}
}
