package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"mgr/pki"
	"mgr/pki/enroll"
	"mgr/raftnode"
)

// Paths of our own endpoints.
const (
	MembersPath = "/mgr/v1/members"
	WhyPath     = "/mgr/v1/why"
)

// Member of the quorum.
type Member = raftnode.Member

// Members asks how the masters are.
func Members(ctx context.Context, client kubernetes.Interface) ([]Member, error) {
	var all []Member
	return all, get(ctx, client, MembersPath, &all)
}

// Token describes a join token; its text is not kept anywhere.
type Token struct {
	ID      string    `json:"id"`
	Role    pki.Role  `json:"role"`
	Expires time.Time `json:"expires"`
}

// CreateToken makes a join token that is good for ttl and returns its text.
func CreateToken(ctx context.Context, client kubernetes.Interface, role pki.Role, ttl time.Duration) (string, error) {
	body, err := json.Marshal(enroll.TokenRequest{Role: role, TTLSeconds: int64(ttl / time.Second)})
	if err != nil {
		return "", err
	}
	answer, err := client.Discovery().RESTClient().Post().AbsPath(enroll.PathTokens).
		SetHeader("Content-Type", "application/json").Body(body).Do(ctx).Raw()
	if err != nil {
		return "", fmt.Errorf("create a join token: %w", err)
	}
	var info enroll.TokenInfo
	if err := json.Unmarshal(answer, &info); err != nil {
		return "", fmt.Errorf("create a join token: the server's answer: %w", err)
	}
	return info.Token, nil
}

// ListTokens lists all join tokens, expired ones that are not swept yet included.
func ListTokens(ctx context.Context, client kubernetes.Interface) ([]Token, error) {
	var all []Token
	return all, get(ctx, client, enroll.PathTokens, &all)
}

// DeleteToken makes a join token useless.
func DeleteToken(ctx context.Context, client kubernetes.Interface, id string) error {
	return client.Discovery().RESTClient().Delete().AbsPath(enroll.PathTokens, id).Do(ctx).Error()
}

func get(ctx context.Context, client kubernetes.Interface, path string, into any) error {
	return decode(client.Discovery().RESTClient().Get().AbsPath(path).Do(ctx), into)
}

// decode reads an answer in JSON.
func decode(result rest.Result, into any) error {
	if err := result.Error(); err != nil {
		return err // with the Status that the server sent, which Raw leaves out
	}
	body, err := result.Raw()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("the server's answer is not what this version of mgr expects: %w", err)
	}
	return nil
}
