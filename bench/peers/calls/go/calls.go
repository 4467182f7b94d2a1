// The same call by Go's net/rpc with gob: calls server SOCKET, calls client SOCKET; see src/main.rs and src/measure.rs.
package main

import (
	"bufio"
	"fmt"
	"log"
	"net"
	"net/rpc"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	inFlight = 64
	warm     = 2000
)

var numbers = []float64{3, 1, 3.5, 1.25, 2, 8, 13, 0.25}

type Stats struct{}

func (Stats) Mean(numbers []float64, reply *float64) error {
	*reply = mean(numbers)
	return nil
}

func mean(numbers []float64) float64 {
	sum := 0.0
	for _, number := range numbers {
		sum += number
	}
	return sum / float64(len(numbers))
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 {
		log.Fatal("usage: calls server|client SOCKET")
	}
	if os.Args[1] == "server" {
		serve(os.Args[2])
	} else {
		ask(os.Args[2])
	}
}

func serve(path string) {
	listener, err := net.Listen("unix", path)
	if err != nil {
		log.Fatal(err)
	}
	if err := rpc.Register(Stats{}); err != nil {
		log.Fatal(err)
	}
	rpc.Accept(listener)
}

func ask(path string) {
	client, err := rpc.Dial("unix", path)
	if err != nil {
		log.Fatal(err)
	}
	latency(client, warm)
	fmt.Println("ready")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		words := strings.Fields(lines.Text())
		count, err := strconv.Atoi(words[1])
		if err != nil {
			log.Fatal(err)
		}
		if words[0] == "latency" {
			fmt.Println(latency(client, count))
		} else {
			fmt.Println(flight(client, count))
		}
	}
}

func checked(client *rpc.Client) {
	var answer float64
	argument := append([]float64(nil), numbers...)
	if err := client.Call("Stats.Mean", argument, &answer); err != nil {
		log.Fatal(err)
	}
	if answer != mean(numbers) {
		log.Fatal("a wrong answer: ", answer)
	}
}

func latency(client *rpc.Client, count int) string {
	times := make([]int64, count)
	for i := range times {
		began := time.Now()
		checked(client)
		times[i] = time.Since(began).Nanoseconds()
	}
	sort.Slice(times, func(a, b int) bool { return times[a] < times[b] })
	return fmt.Sprint(times[count/2], times[count*99/100])
}

func flight(client *rpc.Client, count int) int64 {
	began := time.Now()
	var lanes sync.WaitGroup
	for lane := 0; lane < inFlight; lane++ {
		lanes.Add(1)
		go func() {
			defer lanes.Done()
			for i := 0; i < count/inFlight; i++ {
				checked(client)
			}
		}()
	}
	lanes.Wait()
	return int64(float64(count/inFlight*inFlight) / time.Since(began).Seconds())
}
