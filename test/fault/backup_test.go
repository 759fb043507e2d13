package fault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"mgr/backup"
	"mgr/cmd/admin"
	"mgr/cmd/boot"
	"mgr/cmd/local"
	"mgr/test/cluster"
	"mgr/test/load"
)

// TestBackup takes one cluster with a node through what its users fear most: a snapshot under load, restored into the running cluster;
// all masters lost, and the cluster made anew of the snapshot while masters of before come back; two of three lost, and the
// quorum recovered from the survivor. Pods go on to run through all of it.
func TestBackup(t *testing.T) {
	b := &backupTest{World: Beside(t, cluster.Options{Name: "backup", Nodes: 1, Subnet: "10.99.35.0/24", Demo: true}), dir: t.TempDir()}
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"save under load", b.save},
		{"for administrators only", b.forbidden},
		{"restore online", b.online},
		{"restore into new machines", b.offline},
		{"recover a lost quorum", b.recover},
	} {
		if !t.Run(step.name, step.run) {
			return
		}
	}
}

type backupTest struct {
	*World
	dir    string // of the snapshots
	header backup.Header
	pods   string // of the deployment web at the time of the first one
}

func (b *backupTest) file() string { return filepath.Join(b.dir, "cluster.snapshot") }

func deployment(name string, replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "mgr/demo:1"}}},
			},
		},
	}
}

// runs waits until exactly n pods of a deployment are there and ready, and returns what tells them from others: UIDs and containers.
func (b *backupTest) runs(t *testing.T, name string, n int) (pods string) {
	t.Helper()
	cluster.Eventually(t, time.Minute, fmt.Sprintf("%d pods of %s run", n, name), func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, load.Patience)
		defer cancel()
		list, err := b.Any().CoreV1().Pods(Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + name})
		if err != nil {
			return err
		}
		pods = ""
		for _, p := range list.Items {
			if p.DeletionTimestamp != nil || len(p.Status.ContainerStatuses) != 1 || !p.Status.ContainerStatuses[0].Ready {
				return fmt.Errorf("%s is %s", p.Name, p.Status.Phase)
			}
			pods += fmt.Sprintf("%s %s %s\n", p.Name, p.UID, p.Status.ContainerStatuses[0].ContainerID)
		}
		if len(list.Items) != n {
			return fmt.Errorf("there are %d", len(list.Items))
		}
		return nil
	})
	return pods
}

func (b *backupTest) save(t *testing.T) {
	ctx := t.Context()
	if _, err := b.Kube.AppsV1().Deployments(Namespace).Create(ctx, deployment("web", 2), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	b.pods = b.runs(t, "web", 2)
	acks := &load.Acks{Namespace: Namespace}
	writing, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		acks.Write(writing, b.Kubes[1], "during")
	}()
	defer func() { stop(); <-done }()
	cluster.Eventually(t, 30*time.Second, "some writes", func(context.Context) error {
		if acks.Count() < 100 {
			return errors.New("too few")
		}
		return nil
	})
	before := acks.Count()
	b.Must(t, "snapshot", "save", b.file())
	stop()
	<-done

	info, err := os.Stat(b.file())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", info.Mode(), err)
	}
	if err := json.Unmarshal([]byte(b.Must(t, "snapshot", "verify", b.file(), "-o", "json")), &b.header); err != nil {
		t.Fatal(err)
	}
	if out := b.Must(t, "snapshot", "inspect", b.file()); !strings.Contains(out, "deployments.apps") {
		t.Errorf("inspect shows no deployments:\n%s", out)
	}
	made := len(b.names(t, "during"))
	if made < before {
		t.Errorf("%d writes had been acknowledged before the snapshot, it has %d of them", before, made)
	}
	t.Logf("%d objects in %d bytes, %d acknowledged before, %d there", b.header.Count(), info.Size(), before, made)
	b.sealed(t)
}

// names of the ConfigMaps in the snapshot that begin with prefix.
func (b *backupTest) names(t *testing.T, prefix string) (names []string) {
	t.Helper()
	for o := range b.content(t).State.Resource("configmaps").List("", "") {
		if strings.HasPrefix(o.Key.Name, prefix) {
			names = append(names, o.Key.Name)
		}
	}
	return names
}

func (b *backupTest) sealed(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	key, file := filepath.Join(b.dir, "key"), filepath.Join(b.dir, "sealed")
	if err := os.WriteFile(key, []byte(id.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	b.Must(t, "snapshot", "save", "--recipient", id.Recipient().String(), file)
	if sealed, err := os.ReadFile(file); err != nil || bytes.Contains(sealed, []byte("PRIVATE KEY")) {
		t.Errorf("the sealed file can be read: %v", err)
	}
	if o := b.Mgr(t.Context(), "snapshot", "verify", file); o.Code != 1 || !strings.Contains(o.Stderr, "--identity") {
		t.Errorf("without an identity: exit %d, %s", o.Code, o.Stderr)
	}
	b.Must(t, "snapshot", "verify", "-i", key, file)
	whole, err := os.ReadFile(b.file())
	if err != nil {
		t.Fatal(err)
	}
	whole[len(whole)/2] ^= 1
	damaged := filepath.Join(b.dir, "damaged")
	if err := os.WriteFile(damaged, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"verify", damaged}, {"restore", damaged, "--yes"}} {
		if o := b.Mgr(t.Context(), append([]string{"snapshot"}, args...)...); o.Code != 1 || !strings.Contains(o.Stderr, "damaged") {
			t.Errorf("%v: exit %d, %s", args, o.Code, o.Stderr)
		}
	}
}

// forbidden: whoever may ask for every path, but not do everything with every resource, gets no snapshot and restores none.
func (b *backupTest) forbidden(t *testing.T) {
	ctx := t.Context()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "curious"}}
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "curious"}, Rules: []rbacv1.PolicyRule{
		{NonResourceURLs: []string{"*"}, Verbs: []string{"*"}}, {APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"get", "list", "create", "update"}},
	}}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "curious"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "curious"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: Namespace, Name: "curious"}},
	}
	_, err := b.Kube.CoreV1().ServiceAccounts(Namespace).Create(ctx, account, metav1.CreateOptions{})
	if err == nil {
		_, err = b.Kube.RbacV1().ClusterRoles().Create(ctx, role, metav1.CreateOptions{})
	}
	if err == nil {
		_, err = b.Kube.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	token, err := b.Kube.CoreV1().ServiceAccounts(Namespace).CreateToken(ctx, "curious", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := rest.AnonymousClientConfig(b.Config)
	cfg.BearerToken = token.Status.Token
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.SaveSnapshot(ctx, client, &bytes.Buffer{}, false); !apierrors.IsForbidden(err) {
		t.Errorf("save: %v", err)
	}
	if _, err := admin.RestoreSnapshot(ctx, client, b.content(t), func(uint64, uint64) {}); !apierrors.IsForbidden(err) {
		t.Errorf("restore: %v", err)
	}
}

func (b *backupTest) content(t *testing.T) *backup.Content {
	t.Helper()
	f, err := os.Open(b.file())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c, err := backup.Load(f)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (b *backupTest) online(t *testing.T) {
	ctx := t.Context()
	apps, maps := b.Kube.AppsV1().Deployments(Namespace), b.Kube.CoreV1().ConfigMaps(Namespace)
	if err := apps.Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := apps.Create(ctx, deployment("later", 2), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	b.runs(t, "web", 0)
	b.runs(t, "later", 2)
	kept := b.names(t, "during")[0]
	was, err := maps.Get(ctx, kept, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	watchers := b.watchers(t)
	now, err := admin.ClusterHeader(ctx, b.Kube)
	if err != nil {
		t.Fatal(err)
	}
	if o := b.Mgr(ctx, "snapshot", "restore", b.file()); o.Code != 2 || !strings.Contains(o.Stderr, "will be replaced by") {
		t.Errorf("a restore that nobody confirmed: exit %d, %s", o.Code, o.Stderr)
	}
	b.Must(t, "snapshot", "restore", b.file(), "--yes")
	for i, w := range watchers {
		if code := ended(t, w); code != 410 {
			t.Errorf("the watch at %s ended with %d", b.IDs[i], code)
		}
	}
	// The pods are back with what was said of them; then the node says what they are now.
	cluster.Eventually(t, time.Minute, "the node starts the pods again", func(context.Context) error {
		if b.runs(t, "web", 2) == b.pods {
			return errors.New("their containers are those of before")
		}
		return nil
	})
	b.runs(t, "later", 0)
	if _, err := apps.Get(ctx, "later", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the deployment that came after the snapshot: %v", err)
	}
	if is, err := maps.Get(ctx, kept, metav1.GetOptions{}); err != nil || is.UID != was.UID || is.ResourceVersion != was.ResourceVersion {
		t.Errorf("what was the same before and after: %v, resourceVersion %s and %s", err, was.ResourceVersion, is.ResourceVersion)
	}
	b.Converged(t)
	after, err := admin.ClusterHeader(ctx, b.Kube)
	if err != nil || after.Revision <= max(now.Revision, b.header.Revision) {
		t.Errorf("revision %d after %d and %d: %v", after.Revision, now.Revision, b.header.Revision, err)
	}
}

// watchers watches the pods at each master, from now on.
func (b *backupTest) watchers(t *testing.T) (all []watch.Interface) {
	t.Helper()
	for _, kube := range b.Kubes {
		list, err := kube.CoreV1().Pods(Namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		w, err := kube.CoreV1().Pods(Namespace).Watch(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Stop)
		all = append(all, w)
	}
	return all
}

// ended waits until a watch ends with an error, and returns its code.
func ended(t *testing.T, w watch.Interface) int32 {
	t.Helper()
	limit := time.NewTimer(30 * time.Second)
	defer limit.Stop()
	for {
		select {
		case e, open := <-w.ResultChan():
			if !open {
				return 0
			}
			if s, ok := e.Object.(*metav1.Status); e.Type == watch.Error && ok {
				return s.Code
			}
		case <-limit.C:
			t.Fatal("the watch goes on")
		}
	}
}

// offline loses the first master for good and makes a new one of a snapshot, in a new directory. The other two, a majority of the old
// quorum, are started with what they have.
func (b *backupTest) offline(t *testing.T) {
	first, pods := b.IDs[0], b.runs(t, "web", 2)
	file := filepath.Join(b.dir, "second.snapshot")
	b.Must(t, "snapshot", "save", file)
	lost, err := b.Kube.CoreV1().ConfigMaps(Namespace).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "lost"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	host := ""
	hosts, err := b.Hosts.Hosts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range hosts {
		if h.Name == first {
			host = h.IP.String()
		}
	}
	for _, id := range b.IDs {
		b.Do(t, id, "stop")
	}
	data := filepath.Join(b.dir, "data")
	args := []string{"snapshot", "restore", file, "--id", first, "--advertise", host, "--data-dir"}
	if o := b.Mgr(t.Context(), append(args, b.DataDir(first))...); o.Code != 1 || !strings.Contains(o.Stderr, "not empty") {
		t.Errorf("restore over data: exit %d, %s", o.Code, o.Stderr)
	}
	b.Must(t, append(args, data)...)
	b.Override(t, first, local.Override{Args: []string{"--data-dir", data}})
	for _, id := range b.IDs[1:] {
		b.Do(t, id, "start")
	}
	cluster.Eventually(t, 30*time.Second, "the old masters lead among themselves", func(ctx context.Context) error {
		_, err := b.Kubes[1].CoreV1().ConfigMaps(Namespace).Get(ctx, lost.Name, metav1.GetOptions{})
		return err
	})
	b.Do(t, first, "start")
	cluster.Eventually(t, time.Minute, "the old masters have put their data aside", func(context.Context) error {
		for _, id := range b.IDs[1:] {
			if _, err := os.Stat(filepath.Join(b.DataDir(id), "raft.aside")); err != nil {
				return err
			}
		}
		return nil
	})
	b.Converged(t)
	again, err := b.Kubes[1].CoreV1().ConfigMaps(Namespace).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "lost"}}, metav1.CreateOptions{})
	if err != nil || len(again.ResourceVersion) < len(fmt.Sprint(boot.RestoreGap)) {
		t.Errorf("what came after the snapshot: %v, created anew at %s", err, again.ResourceVersion)
	}
	if now := b.runs(t, "web", 2); now != pods {
		t.Errorf("the pods did not go on to run:\n%s%s", pods, now)
	}
	b.ready(t)
}

// ready waits until the node is, by a heartbeat to the masters of now.
func (b *backupTest) ready(t *testing.T) {
	t.Helper()
	cluster.Eventually(t, time.Minute, "the node is ready", func(ctx context.Context) error {
		list, err := b.Any().CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, n := range list.Items {
			for _, c := range n.Status.Conditions {
				if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
					return nil
				}
			}
		}
		return errors.New("it is not")
	})
}

// recover destroys one master, and loses another that comes back later; the third has to go on.
func (b *backupTest) recover(t *testing.T) {
	survivor, lost, destroyed := b.IDs[0], b.IDs[1], b.IDs[2]
	pods := b.runs(t, "web", 2)
	b.Converged(t)
	dir := filepath.Join(b.dir, "data")
	schedule := filepath.Join(b.dir, "scheduled")
	b.Override(t, survivor, local.Override{Args: []string{"--data-dir", dir,
		"--snapshot-schedule", "1s", "--snapshot-dir", schedule, "--snapshot-keep", "2"}})
	args := []string{"recover", "--id", survivor, "--data-dir", dir}
	if o := b.Mgr(t.Context(), append(args, "--yes")...); o.Code != 1 || !strings.Contains(o.Stderr, "in use") {
		t.Errorf("recover a master that runs: exit %d, %s", o.Code, o.Stderr)
	}
	b.Do(t, survivor, "stop")
	if o := b.Mgr(t.Context(), append(args, "--yes")...); o.Code != 1 || !strings.Contains(o.Stderr, "another master answers") {
		t.Errorf("recover while the others run: exit %d, %s", o.Code, o.Stderr)
	}
	b.Do(t, lost, "stop")
	b.Do(t, destroyed, "stop")
	for _, name := range []string{"raft", "raft.aside", "pki", "joined", "peers.json"} {
		if err := os.RemoveAll(filepath.Join(b.DataDir(destroyed), name)); err != nil {
			t.Fatal(err)
		}
	}
	var r boot.Recovery
	if err := json.Unmarshal([]byte(b.Must(t, append(args, "--dry-run", "-o", "json")...)), &r); err != nil {
		t.Fatal(err)
	}
	if r.LastIndex == 0 || r.Committed() == 0 || r.Lost() != 0 || len(r.Others) != 2 || r.HeardAt.IsZero() {
		t.Errorf("before: %+v", r)
	}
	b.Must(t, append(args, "--yes")...)
	for _, id := range b.IDs {
		b.Do(t, id, "start")
	}
	b.Converged(t)
	if log := b.Log(t, lost); !strings.Contains(log, "recovered or restored without it") {
		t.Errorf("%s does not say why it began anew", lost)
	}
	if now := b.runs(t, "web", 2); now != pods {
		t.Errorf("the pods did not go on to run:\n%s%s", pods, now)
	}
	b.scheduled(t, schedule)
}

// scheduled waits for snapshots of the survivor's schedule, of which no more stay than were asked for.
func (b *backupTest) scheduled(t *testing.T, dir string) {
	t.Helper()
	seen := map[string]bool{}
	cluster.Eventually(t, 30*time.Second, "scheduled snapshots", func(context.Context) error {
		files, err := filepath.Glob(filepath.Join(dir, "mgr-*.snapshot"))
		for _, f := range files {
			seen[f] = true
		}
		if err != nil || len(files) > 3 { // two, and one more for a moment
			return fmt.Errorf("there are %q, %w", files, err)
		}
		if len(seen) < 4 {
			return fmt.Errorf("there were %d", len(seen))
		}
		return nil
	})
	files, err := filepath.Glob(filepath.Join(dir, "mgr-*.snapshot"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	b.Must(t, "snapshot", "inspect", files[len(files)-1])
	metrics, err := b.Kubes[0].Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
	if err != nil || !bytes.Contains(metrics, []byte("mgr_snapshot_last_success_timestamp_seconds 1")) {
		t.Errorf("the metric is not there: %v", err)
	}
}
