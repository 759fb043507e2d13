package resource

import (
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

// What kubectl shows where there is nothing to show.
const (
	none    = "<none>"
	unknown = "<unknown>"
	unset   = "<unset>"
)

// text, number, boolean and wide build the column definitions of a table; wide columns are shown by -o wide only.

func text(name, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "string", Description: description}
}

func number(name, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "integer", Description: description}
}

func boolean(name, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "boolean", Description: description}
}

func wide(c metav1.TableColumnDefinition) metav1.TableColumnDefinition {
	c.Priority = 1
	return c
}

func nameColumn() metav1.TableColumnDefinition {
	c := text("Name", metav1.ObjectMeta{}.SwaggerDoc()["name"])
	c.Format = "name"
	return c
}

func ageColumn() metav1.TableColumnDefinition {
	return text("Age", metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"])
}

// age is the time since t as kubectl shows it: "5m", "3d4h".
func age(t metav1.Time, now time.Time) string {
	if t.IsZero() {
		return unknown
	}
	return duration.HumanDuration(now.Sub(t.Time))
}

func or(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

// containerCells lists the names and the images of containers.
func containerCells(containers []corev1.Container) (names, images string) {
	n, i := make([]string, len(containers)), make([]string, len(containers))
	for x, c := range containers {
		n[x], i[x] = c.Name, c.Image
	}
	return strings.Join(n, ","), strings.Join(i, ",")
}

// some joins the first three of items and says how many more there are.
func some(items []string) string {
	const shown = 3
	switch {
	case len(items) == 0:
		return none
	case len(items) <= shown:
		return strings.Join(items, ",")
	}
	return strings.Join(items[:shown], ",") + " + " + strconv.Itoa(len(items)-shown) + " more..."
}

// yesNo is how kubectl shows a boolean.
func yesNo(b bool) string {
	if b {
		return "True"
	}
	return "False"
}

// nameAndAge are the columns of kinds that show nothing else.
func nameAndAge() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{nameColumn(), ageColumn()}
}
