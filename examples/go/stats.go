// Mean, median and mode of numbers, by the client of the standard library: stats SOCKET NUMBER…
package main

import (
	"fmt"
	"log"
	"net/rpc/jsonrpc"
	"os"
	"strconv"
)

type Query struct {
	Numbers    []float64 `json:"numbers"`
	DeadlineMs int       `json:"deadline_ms"`
}

func main() {
	log.SetFlags(0)
	query := Query{Numbers: []float64{}, DeadlineMs: 10_000}
	for _, word := range os.Args[2:] {
		number, err := strconv.ParseFloat(word, 64)
		if err != nil {
			log.Fatal("stats: ", err)
		}
		query.Numbers = append(query.Numbers, number)
	}
	stats, err := jsonrpc.Dial("unix", os.Args[1])
	if err != nil {
		log.Fatal("stats: ", err)
	}
	var mean, median struct{ Value float64 }
	var mode struct{ Values []float64 }
	for method, reply := range map[string]any{"Stats.Mean": &mean, "Stats.Median": &median, "Stats.Mode": &mode} {
		if err := stats.Call(method, query, reply); err != nil {
			log.Fatal("stats: ", err)
		}
	}
	fmt.Printf("mean    %v\nmedian  %v\nmode    %v\n", mean.Value, median.Value, mode.Values)
}
