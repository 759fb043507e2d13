package volume

import (
	"context"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"mgr/agent/env"
)

// content collects the files of one volume.
type content struct {
	ctx   context.Context
	m     *Manager
	pod   *v1.Pod
	files map[string]File
	next  time.Time // when to collect again though nothing changed
}

// add puts one file in; the path must stay inside.
func (c *content) add(name string, data []byte, mode *int32, fallback int32) error {
	clean := path.Clean(name)
	if path.IsAbs(name) || clean == ".." || strings.HasPrefix(clean, "../") || strings.HasPrefix(clean, "..data") {
		return fmt.Errorf("invalid path %q: it must be relative and stay inside the volume", name)
	}
	c.files[clean] = File{Data: data, Mode: os.FileMode(ptr.Deref(mode, fallback)) & os.ModePerm}
	return nil
}

func (c *content) configMap(name string, items []v1.KeyToPath, optional *bool, mode int32) error {
	cm, err := c.m.Objects.ConfigMap(c.ctx, c.pod.Namespace, name)
	if err != nil {
		return unless(optional, err)
	}
	data := make(map[string][]byte, len(cm.Data)+len(cm.BinaryData))
	for k, s := range cm.Data {
		data[k] = []byte(s)
	}
	for k, b := range cm.BinaryData {
		data[k] = b
	}
	return c.keys("configmap", data, items, optional, mode)
}

func (c *content) secret(name string, items []v1.KeyToPath, optional *bool, mode int32) error {
	s, err := c.m.Objects.Secret(c.ctx, c.pod.Namespace, name)
	if err != nil {
		return unless(optional, err)
	}
	return c.keys("secret", s.Data, items, optional, mode)
}

// unreadable: the API did not say what the content is. What is there already stays.
type unreadable struct{ error }

func (u unreadable) Unwrap() error { return u.error }

// unless judges an error of reading an object: nothing, if it does not exist and need not.
func unless(optional *bool, err error) error {
	switch {
	case !apierrors.IsNotFound(err):
		return unreadable{err}
	case ptr.Deref(optional, false):
		return nil
	}
	return err
}

func (c *content) keys(kind string, data map[string][]byte, items []v1.KeyToPath, optional *bool, mode int32) error {
	if len(items) == 0 {
		for k, b := range data {
			if err := c.add(k, b, nil, mode); err != nil {
				return err
			}
		}
		return nil
	}
	for _, item := range items {
		b, ok := data[item.Key]
		if !ok {
			if ptr.Deref(optional, false) {
				continue
			}
			return fmt.Errorf("references non-existent %s key: %s", kind, item.Key)
		}
		if err := c.add(item.Path, b, item.Mode, mode); err != nil {
			return err
		}
	}
	return nil
}

func (c *content) downward(items []v1.DownwardAPIVolumeFile, mode int32) error {
	facts := c.m.Facts(c.pod)
	for _, item := range items {
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = env.Field(c.pod, item.FieldRef.FieldPath, facts)
		case item.ResourceFieldRef != nil:
			value, err = env.Resource(c.pod, nil, item.ResourceFieldRef, facts)
		}
		if err != nil {
			return err
		}
		if err := c.add(item.Path, []byte(value), item.Mode, mode); err != nil {
			return err
		}
	}
	return nil
}

func (c *content) projected(v *v1.ProjectedVolumeSource, volume string) error {
	mode := ptr.Deref(v.DefaultMode, v1.ProjectedVolumeSourceDefaultMode)
	for i, s := range v.Sources {
		var err error
		switch {
		case s.ConfigMap != nil:
			err = c.configMap(s.ConfigMap.Name, s.ConfigMap.Items, s.ConfigMap.Optional, mode)
		case s.Secret != nil:
			err = c.secret(s.Secret.Name, s.Secret.Items, s.Secret.Optional, mode)
		case s.DownwardAPI != nil:
			err = c.downward(s.DownwardAPI.Items, mode)
		case s.ServiceAccountToken != nil:
			err = c.token(s.ServiceAccountToken, fmt.Sprintf("%s/%s/%d", c.pod.UID, volume, i), mode)
		case s.ClusterTrustBundle != nil:
			err = c.trust(s.ClusterTrustBundle, mode)
		case s.PodCertificate != nil:
			err = c.certificate(s.PodCertificate, fmt.Sprintf("%s/%s/%d", c.pod.UID, volume, i), mode)
		default:
			err = fmt.Errorf("projected volume source %d: this kind is not supported by this node", i)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// tokenAge is how old a token gets, however long it lives.
const tokenAge = 24 * time.Hour

// token puts a bound service account token in, with a new one at 80 % of its life or when it is a day old.
func (c *content) token(src *v1.ServiceAccountTokenProjection, key string, mode int32) error {
	t, err := c.m.token(c.ctx, c.pod, src, key)
	if err != nil {
		return unreadable{fmt.Errorf("failed to fetch token: %w", err)}
	}
	c.again(t.refresh)
	return c.addPrivate(src.Path, []byte(t.value), mode)
}

// addPrivate puts in a file that says who the pod is, or whom it trusts: in a pod that runs as one user only this user can read
// it, and the fsGroup, if there is one.
func (c *content) addPrivate(name string, data []byte, mode int32) error {
	if err := c.add(name, data, nil, mode); err != nil {
		return err
	}
	name = path.Clean(name)
	f := c.files[name]
	if uid := soleUser(c.pod); uid != nil {
		f.UID, f.Mode = int(*uid), 0o600
	}
	if fsGroup(c.pod) >= 0 {
		f.Mode = 0o600
	}
	c.files[name] = f
	return nil
}

// soleUser is the user that all containers run as, if the specification says so.
func soleUser(pod *v1.Pod) *int64 {
	var base, sole *int64
	if sc := pod.Spec.SecurityContext; sc != nil {
		base = sc.RunAsUser
	}
	later := make([]v1.Container, len(pod.Spec.EphemeralContainers))
	for i := range pod.Spec.EphemeralContainers {
		later[i].SecurityContext = pod.Spec.EphemeralContainers[i].SecurityContext
	}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers, later} {
		for i := range list {
			u := base
			if sc := list[i].SecurityContext; sc != nil && sc.RunAsUser != nil {
				u = sc.RunAsUser
			}
			if u == nil || sole != nil && *sole != *u {
				return nil
			}
			sole = u
		}
	}
	return sole
}

type token struct {
	value   string
	refresh time.Time
	expires time.Time
}

func (m *Manager) token(ctx context.Context, pod *v1.Pod, src *v1.ServiceAccountTokenProjection, key string) (token, error) {
	now := m.now()
	m.mu.Lock()
	t, ok := m.tokens[key]
	m.mu.Unlock()
	if ok && now.Before(t.refresh) {
		return t, nil
	}
	request := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{
		ExpirationSeconds: src.ExpirationSeconds,
		BoundObjectRef:    &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if src.Audience != "" {
		request.Spec.Audiences = []string{src.Audience}
	}
	account := pod.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	got, err := m.Client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, account, request, metav1.CreateOptions{})
	if err != nil {
		if ok && now.Before(t.expires) {
			t.refresh = now.Add(retryRefresh)
			return t, nil
		}
		return token{}, err
	}
	life := got.Status.ExpirationTimestamp.Sub(now)
	t = token{value: got.Status.Token, expires: got.Status.ExpirationTimestamp.Time, refresh: now.Add(min(life*8/10, tokenAge))}
	m.mu.Lock()
	m.tokens[key] = t
	m.mu.Unlock()
	return t, nil
}

// files collects what a volume of the projecting kinds shall show; ok is false for other kinds.
func (m *Manager) files(ctx context.Context, pod *v1.Pod, v *v1.Volume) (c *content, ok bool, err error) {
	c = &content{ctx: ctx, m: m, pod: pod, files: map[string]File{}}
	switch {
	case v.ConfigMap != nil:
		err = c.configMap(v.ConfigMap.Name, v.ConfigMap.Items, v.ConfigMap.Optional, ptr.Deref(v.ConfigMap.DefaultMode, v1.ConfigMapVolumeSourceDefaultMode))
	case v.Secret != nil:
		err = c.secret(v.Secret.SecretName, v.Secret.Items, v.Secret.Optional, ptr.Deref(v.Secret.DefaultMode, v1.SecretVolumeSourceDefaultMode))
	case v.DownwardAPI != nil:
		err = c.downward(v.DownwardAPI.Items, ptr.Deref(v.DownwardAPI.DefaultMode, v1.DownwardAPIVolumeSourceDefaultMode))
	case v.Projected != nil:
		err = c.projected(v.Projected, v.Name)
	default:
		return nil, false, nil
	}
	if gid := fsGroup(pod); gid >= 0 {
		for name, f := range c.files {
			f.Mode |= 0o440
			c.files[name] = f
		}
	}
	return c, true, err
}

func fsGroup(pod *v1.Pod) int {
	if sc := pod.Spec.SecurityContext; sc != nil && sc.FSGroup != nil {
		return int(*sc.FSGroup)
	}
	return -1
}
