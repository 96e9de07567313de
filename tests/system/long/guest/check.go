// Goroutines, channels, a garbage collector at work, maps, big numbers, hashes, floating point.
package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"os"
	"regexp"
	"runtime"
	"sort"
	"sync"
)

type node struct {
	left, right *node
	value       int
}

func tree(depth int) *node {
	if depth == 0 {
		return &node{value: 1}
	}
	return &node{tree(depth - 1), tree(depth - 1), 1}
}

func (n *node) sum() int {
	if n == nil {
		return 0
	}
	return n.left.sum() + n.right.sum() + n.value
}

func check(ok bool, what string) {
	if !ok {
		fmt.Println("check.go:", what)
		os.Exit(1)
	}
}

func main() {
	runtime.GOMAXPROCS(4)
	work, done := make(chan int), make(chan int)
	var wg sync.WaitGroup
	for i := 0; i < 16; i++ {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for n := range work {
				done <- n * n
			}
		}()
	}
	go func() {
		for i := 1; i <= 20000; i++ {
			work <- i
		}
		close(work)
		wg.Wait()
		close(done)
	}()
	sum := 0
	for n := range done {
		sum += n
	}
	check(sum == 20000*20001*40001/6, "sum of squares")
	for i := 0; i < 10; i++ {
		check(tree(15).sum() == 1<<16-1, "tree")
	}
	m := map[string]int{}
	for i := 0; i < 200000; i++ {
		m[fmt.Sprint(i%5003)] += i
	}
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	check(len(keys) == 5003 && keys[1] == "1" && keys[2] == "10", "map")
	f := new(big.Int).MulRange(1, 1000)
	check(len(f.String()) == 2568, "factorial")
	check(fmt.Sprintf("%x", sha256.Sum256([]byte("abc")))[:16] == "ba7816bf8f01cfea", "sha256")
	check(math.Abs(math.Sin(1)*math.Sin(1)+math.Cos(1)*math.Cos(1)-1) < 1e-15, "sin")
	var v map[string][]float64
	check(json.Unmarshal([]byte(`{"a":[1,2.5,-3e3]}`), &v) == nil && v["a"][2] == -3000, "json")
	check(regexp.MustCompile(`(a|ab)(c|bcd)(d*)`).FindString("xabcd") == "abcd", "regexp")
	func() {
		defer func() { check(recover() != nil, "a nil dereference does not panic") }()
		var n *node
		n.value = 1
	}()
	fmt.Println("check.go: all is right")
}
