// Command kubectl-arguments says what kubectl makes of command lines: it is the reference of the differential test of podbridge's kubectl
// shim. Each line of standard input is one command line without the word kubectl: the words with NUL bytes between them, in hexadecimal
// digits. Each line of output is a JSON object: what kubectl would do, or why it refuses. The flags, the kubeconfig and the words are
// interpreted by kubectl's own code; no server is asked.
package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/tools/portforward"
	kubectl "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/exec"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
)

// meaning of a command line. Verb is empty for commands other than exec and port-forward.
type meaning struct {
	Refused   string   `json:"refused,omitempty"`
	Verb      string   `json:"verb,omitempty"`
	Server    string   `json:"server,omitempty"`
	Namespace string   `json:"namespace,omitempty"`
	Pod       string   `json:"pod,omitempty"`
	Container string   `json:"container,omitempty"`
	Stdin     bool     `json:"stdin,omitempty"`
	TTY       bool     `json:"tty,omitempty"`
	Quiet     bool     `json:"quiet,omitempty"`
	Command   []string `json:"command,omitempty"`
	Ports     []string `json:"ports,omitempty"`
	// The command comes without "--" before it. Older kubectls take that.
	Undashed bool `json:"undashed,omitempty"`
	// Flags that the command line sets.
	Flags []string `json:"flags,omitempty"`
}

func main() {
	// What kubectl would print before it exits.
	kubectlutil.BehaviorOnFatal(func(message string, _ int) { panic(message) })
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	answers := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		line, err := hex.DecodeString(lines.Text())
		if err == nil {
			err = answers.Encode(interpret(strings.Split(string(line), "\x00")))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "kubectl-arguments:", err)
			os.Exit(1)
		}
	}
}

func interpret(words []string) (found meaning) {
	defer func() {
		if message := recover(); message != nil {
			found = meaning{Refused: fmt.Sprint(message)}
		}
	}()
	streams := genericiooptions.IOStreams{In: strings.NewReader(""), Out: io.Discard, ErrOut: io.Discard}
	options := genericclioptions.NewConfigFlags(false).WithDeprecatedPasswordFlag()
	root := kubectl.NewKubectlCommand(kubectl.KubectlOptions{
		Arguments:   append([]string{"kubectl"}, words...),
		ConfigFlags: options,
		IOStreams:   streams,
	})
	replaceRuns(root, func(command *cobra.Command, arguments []string) {
		command.Flags().Visit(func(flag *pflag.Flag) { found.Flags = append(found.Flags, flag.Name) })
		factory := kubectlutil.NewFactory(options)
		switch command.CommandPath() {
		case "kubectl exec":
			found.asExec(factory, command, arguments, streams)
		case "kubectl port-forward":
			found.asPortForward(factory, command, arguments)
		}
	})
	root.SetArgs(words)
	root.SetOut(io.Discard)
	root.SetErr(io.Discard)
	if err := root.Execute(); err != nil {
		return meaning{Refused: err.Error()}
	}
	return found
}

// replaceRuns makes all commands run the function instead of what they do.
func replaceRuns(command *cobra.Command, run func(*cobra.Command, []string)) {
	command.Run, command.RunE = run, nil
	command.PreRun, command.PreRunE, command.PostRun, command.PostRunE = nil, nil, nil, nil
	for _, child := range command.Commands() {
		replaceRuns(child, run)
	}
}

func (found *meaning) asExec(factory kubectlutil.Factory, command *cobra.Command, arguments []string, streams genericiooptions.IOStreams) {
	options := exec.ExecOptions{StreamOptions: exec.StreamOptions{IOStreams: streams}}
	flags := command.Flags()
	options.ContainerName, _ = flags.GetString("container")
	options.Stdin, _ = flags.GetBool("stdin")
	options.TTY, _ = flags.GetBool("tty")
	options.Quiet, _ = flags.GetBool("quiet")
	options.Filenames, _ = flags.GetStringSlice("filename")
	dash := command.ArgsLenAtDash()
	if dash < 0 && len(arguments) > 1 {
		found.Undashed, dash = true, 1
	}
	kubectlutil.CheckErr(options.Complete(factory, command, arguments, dash))
	kubectlutil.CheckErr(options.Validate())
	found.Verb, found.Server, found.Namespace, found.Pod = "exec", options.Config.Host, options.Namespace, options.ResourceName
	found.Container, found.Stdin, found.TTY, found.Quiet = options.ContainerName, options.Stdin, options.TTY, options.Quiet
	for _, word := range options.Command {
		found.Command = append(found.Command, hex.EncodeToString([]byte(word)))
	}
}

// asPortForward does what kubectl does before it asks the server for the pod.
func (found *meaning) asPortForward(factory kubectlutil.Factory, command *cobra.Command, arguments []string) {
	if len(arguments) < 2 {
		panic("TYPE/NAME and list of ports are required for port-forward")
	}
	_, err := portforward.New(nil, arguments[1:], nil, nil, io.Discard, io.Discard)
	kubectlutil.CheckErr(err)
	for _, ports := range arguments[1:] {
		var numbers []string
		for _, port := range strings.Split(ports, ":") {
			number, _ := strconv.ParseUint(port, 10, 16) // an empty local port is any port
			numbers = append(numbers, strconv.FormatUint(number, 10))
		}
		found.Ports = append(found.Ports, strings.Join(numbers, ":"))
	}
	config, err := factory.ToRESTConfig()
	kubectlutil.CheckErr(err)
	found.Namespace, _, err = factory.ToRawKubeConfigLoader().Namespace()
	kubectlutil.CheckErr(err)
	found.Verb, found.Server, found.Pod = "port-forward", config.Host, arguments[0]
}
