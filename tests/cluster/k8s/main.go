// This file owns the test cluster's only Kubernetes binary: kube-apiserver,
// kube-controller-manager, kube-scheduler, kubelet and kubectl in one program.
// The component is the base name of argv[0] (the cluster script makes one link
// per component), or else the first argument.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

func isComponent(name string) bool {
	return strings.HasPrefix(name, "kube")
}

// command returns the component called name, or nil. To be called once: the
// components register their metrics and flags for the whole process.
func command(name string) *cobra.Command {
	switch name {
	case "kube-apiserver":
		return apiserver.NewAPIServerCommand()
	case "kube-controller-manager":
		return controllermanager.NewControllerManagerCommand()
	case "kube-scheduler":
		return scheduler.NewSchedulerCommand()
	case "kubelet":
		return kubelet.NewKubeletCommand(context.Background())
	}
	return nil
}

func main() {
	name := filepath.Base(os.Args[0])
	if !isComponent(name) && len(os.Args) > 1 {
		os.Args = os.Args[1:]
		name = os.Args[0]
	}
	if name == "kubectl" {
		// kubectl reports its errors itself: a command that failed in a pod
		// must hand its exit status on, which cli.Run would turn into 1.
		if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
			kubectlutil.CheckErr(err)
		}
		return
	}
	c := command(name)
	if c == nil {
		fmt.Fprintf(os.Stderr, "%s: not a component of this program\n", name)
		os.Exit(2)
	}
	os.Exit(cli.Run(c))
}
