// A life of a VM by Firecracker's own Go SDK: it starts the firecracker (or jailer) that PATH has, configures a guest, replaces a drive's
// image, moves the balloon, changes metadata and limits, pauses, resumes, presses Ctrl-Alt-Del. One line for each step that went well;
// the first that does not ends it with exit code 1. The guest's console is this program's standard output, a file (-console) that it reads.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	firecracker "github.com/firecracker-microvm/firecracker-go-sdk"
	"github.com/firecracker-microvm/firecracker-go-sdk/client/models"
	"github.com/sirupsen/logrus"
)

var (
	folder  = flag.String("folder", "", "for sockets, FIFOs and the log")
	console = flag.String("console", "", "the file that is our standard output")
	kernel  = flag.String("kernel", "", "")
	initrd  = flag.String("initrd", "", "")
	args    = flag.String("args", "", "kernel command line")
	root    = flag.String("root", "", "root file system, read-only")
	disk    = flag.String("disk", "", "drive of 1 MiB")
	disk2   = flag.String("disk2", "", "its replacement")
	tap     = flag.String("tap", "", "network interface; empty: none")
	jail    = flag.String("jail", "", "base folder of the jail; empty: no jailer")
	node    = flag.Int("node", 0, "NUMA node for the jailer")
	id      = flag.Int("id", 1234, "user and group in the jail")
)

func must(step string, started time.Time, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "FAILED %s: %v\n", step, err)
		os.Exit(1)
	}
	fmt.Fprintf(os.Stderr, "ok %s (%d ms)\n", step, time.Since(started).Milliseconds())
}

func try(step string, do func() error) {
	started := time.Now()
	must(step, started, do())
}

func consoleText() string {
	text, _ := os.ReadFile(*console)
	return string(text)
}

func waitConsole(text string) error {
	for end := time.Now().Add(100 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if strings.Contains(consoleText(), text) {
			return nil
		}
	}
	return fmt.Errorf("no %q on the console", text)
}

func bucket(size int64) *models.TokenBucket {
	return &models.TokenBucket{Size: firecracker.Int64(size), RefillTime: firecracker.Int64(100), OneTimeBurst: firecracker.Int64(size)}
}

func config(log io.Writer) firecracker.Config {
	limits := models.RateLimiter{Bandwidth: bucket(100 << 20), Ops: bucket(100000)}
	cfg := firecracker.Config{
		SocketPath:      filepath.Join(*folder, "api.sock"),
		LogFifo:         filepath.Join(*folder, "log.fifo"),
		LogLevel:        "Debug",
		FifoLogWriter:   log,
		MetricsFifo:     filepath.Join(*folder, "metrics.fifo"),
		KernelImagePath: *kernel,
		InitrdPath:      *initrd,
		KernelArgs:      *args,
		Drives: firecracker.NewDrivesBuilder(*root).WithRootDrive(*root, firecracker.WithReadOnly(true)).
			AddDrive(*disk, false, firecracker.WithDriveID("data"), firecracker.WithRateLimiter(limits)).Build(),
		MachineCfg: models.MachineConfiguration{VcpuCount: firecracker.Int64(1), MemSizeMib: firecracker.Int64(256),
			Smt: firecracker.Bool(false)},
		VsockDevices: []firecracker.VsockDevice{{ID: "root", Path: "vsock.sock", CID: 3}},
	}
	if *tap != "" {
		cfg.NetworkInterfaces = firecracker.NetworkInterfaces{{AllowMMDS: true, StaticConfiguration: &firecracker.StaticNetworkConfiguration{
			MacAddress: "06:00:ac:10:00:02", HostDevName: *tap}}}
		cfg.MmdsVersion = firecracker.MMDSv2
	}
	if *jail == "" {
		cfg.VsockDevices[0].Path = filepath.Join(*folder, "vsock.sock")
		return cfg
	}
	cfg.SocketPath = "" // in a jail: /run/firecracker.socket
	exe, err := filepath.Abs(filepath.Join(*folder, "firecracker"))
	must("find firecracker", time.Now(), err)
	cfg.JailerCfg = &firecracker.JailerConfig{ID: "sdk-vm", UID: id, GID: id, NumaNode: node, ExecFile: exe, ChrootBaseDir: *jail,
		ChrootStrategy: firecracker.NewNaiveChrootStrategy(*kernel)}
	return cfg
}

// A second image, as the VMM names it.
func secondImage() (string, error) {
	if *jail == "" {
		return *disk2, nil
	}
	name := filepath.Base(*disk2)
	there := filepath.Join(*jail, "firecracker", "sdk-vm", "root", name)
	if err := os.Link(*disk2, there); err != nil {
		return "", err
	}
	return name, os.Chown(there, *id, *id)
}

func standsStill() error {
	time.Sleep(200 * time.Millisecond)
	before := consoleText()
	time.Sleep(time.Second)
	if consoleText() != before {
		return fmt.Errorf("a paused guest writes")
	}
	return nil
}

func goesOn() error {
	seen := strings.Count(consoleText(), "tick")
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if strings.Count(consoleText(), "tick") > seen+3 {
			return nil
		}
	}
	return fmt.Errorf("the guest does not go on")
}

func hasState(ctx context.Context, m *firecracker.Machine, want string) error {
	info, err := m.DescribeInstanceInfo(ctx)
	if err == nil && *info.State != want {
		err = fmt.Errorf("the state is %q", *info.State)
	}
	return err
}

// The guest goes on in another VMM, from a snapshot.
func anotherProcess(ctx context.Context, m *firecracker.Machine) *firecracker.Machine {
	memory, state := filepath.Join(*folder, "snap.mem"), filepath.Join(*folder, "snap.state")
	try("pause again", func() error { return m.PauseVM(ctx) })
	try("snapshot", func() error { return m.CreateSnapshot(ctx, memory, state) })
	try("first process ends", func() error {
		if err := m.StopVMM(); err != nil {
			return err
		}
		return m.Wait(ctx)
	})
	started := time.Now()
	log, err := os.OpenFile(filepath.Join(*folder, "log"), os.O_APPEND|os.O_WRONLY, 0)
	must("log again", started, err)
	cfg := firecracker.Config{
		SocketPath:    filepath.Join(*folder, "api2.sock"),
		LogFifo:       filepath.Join(*folder, "log2.fifo"),
		LogLevel:      "Debug",
		FifoLogWriter: log,
		MetricsFifo:   filepath.Join(*folder, "metrics2.fifo"),
	}
	next, err := firecracker.NewMachine(ctx, cfg, firecracker.WithSnapshot(memory, state, func(c *firecracker.SnapshotConfig) { c.ResumeVM = true }))
	must("second machine", started, err)
	try("load", func() error { return next.Start(ctx) })
	try("loaded runs", func() error { return hasState(ctx, next, "Running") })
	try("loaded goes on", goesOn)
	return next
}

func running(ctx context.Context, m *firecracker.Machine) {
	try("version", func() error { _, err := m.GetFirecrackerVersion(ctx); return err })
	try("running", func() error { return hasState(ctx, m, "Running") })
	try("guest up", func() error { return waitConsole("guest up 2048") })
	try("drive", func() error {
		path, err := secondImage()
		if err != nil {
			return err
		}
		return m.UpdateGuestDrive(ctx, "data", path)
	})
	try("guest sees it", func() error { return waitConsole("patched two") })
	try("balloon", func() error {
		if err := m.UpdateBalloon(ctx, 16); err != nil {
			return err
		}
		got, err := m.GetBalloonConfig(ctx)
		if err == nil && *got.AmountMib != 16 {
			err = fmt.Errorf("amount_mib is %d", *got.AmountMib)
		}
		return err
	})
	try("balloon statistics", func() error {
		if err := m.UpdateBalloonStats(ctx, 2); err != nil {
			return err
		}
		_, err := m.GetBalloonStats(ctx)
		return err
	})
	if *tap != "" {
		try("metadata", func() error {
			if err := m.UpdateMetadata(ctx, map[string]string{"b": "2"}); err != nil {
				return err
			}
			got := map[string]string{}
			err := m.GetMetadata(ctx, &got)
			if err == nil && (got["a"] != "1" || got["b"] != "2") {
				err = fmt.Errorf("metadata are %v", got)
			}
			return err
		})
		try("limits", func() error {
			limit := firecracker.RateLimiterSet{InRateLimiter: &models.RateLimiter{Bandwidth: bucket(1 << 20)}}
			return m.UpdateGuestNetworkInterfaceRateLimit(ctx, "1", limit)
		})
	}
	try("pause", func() error { return m.PauseVM(ctx) })
	try("paused", func() error { return hasState(ctx, m, "Paused") })
	try("stands still", standsStill)
	try("resume", func() error { return m.ResumeVM(ctx) })
	try("goes on", goesOn)
	if *jail == "" {
		m = anotherProcess(ctx, m)
	}
	try("shutdown", func() error { return m.Shutdown(ctx) })
	try("end", func() error { return m.Wait(ctx) })
}

func main() {
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Second)
	defer cancel()
	logger := logrus.New()
	logger.SetOutput(os.Stderr)
	log, err := os.Create(filepath.Join(*folder, "log"))
	must("log", time.Now(), err)
	m, err := firecracker.NewMachine(ctx, config(log), firecracker.WithLogger(logrus.NewEntry(logger)))
	must("machine", time.Now(), err)
	m.Handlers.FcInit = m.Handlers.FcInit.Append(firecracker.NewCreateBalloonHandler(8, true, 1))
	if *tap != "" {
		m.Handlers.FcInit = m.Handlers.FcInit.Append(firecracker.NewSetMetadataHandler(map[string]string{"a": "1"}))
	}
	try("start", func() error { return m.Start(ctx) })
	running(ctx, m)
}
