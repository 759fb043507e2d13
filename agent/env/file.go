package env

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxFile is how much of a file of variables is read.
const maxFile = 1 << 20

// InFile finds a variable in a file of lines NAME='value'. A value stands in single quotes and may go over several lines; nothing in it
// is special. Empty lines and those that begin with # say nothing. Of several of one name the first counts.
func InFile(file io.Reader, name string) (value string, found bool, err error) {
	b, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return "", false, err
	}
	if len(b) > maxFile {
		return "", false, fmt.Errorf("it is longer than %d bytes", maxFile)
	}
	rest, at := string(b), 0
	for rest != "" {
		at++
		line, after, _ := strings.Cut(rest, "\n")
		line = strings.TrimLeft(line, " \t")
		if strings.TrimRight(line, "\r") == "" || line[0] == '#' {
			rest = after
			continue
		}
		key, text, ok := strings.Cut(rest, "=")
		key = strings.TrimLeft(key, " \t")
		if !ok || key == "" || strings.ContainsAny(key, " \t\n") {
			return "", false, fmt.Errorf("line %d is not of the form NAME='value'", at)
		}
		if text == "" || text[0] == ' ' || text[0] == '\t' {
			// As a shell has it: NAME= 'value' sets NAME to nothing.
			if key == name {
				return "", true, nil
			}
			rest = after
			continue
		}
		value, rest, err = quoted(text)
		if err != nil {
			return "", false, fmt.Errorf("line %d: %w", at, err)
		}
		at += strings.Count(value, "\n")
		if key == name {
			return value, true, nil
		}
	}
	return "", false, nil
}

// quoted splits 'value' and what may follow it on its line from the lines after.
func quoted(text string) (value, rest string, err error) {
	if text[0] != '\'' {
		return "", "", errors.New("the value is not in single quotes")
	}
	value, after, ok := strings.Cut(text[1:], "'")
	if !ok {
		return "", "", errors.New("the quote is not closed")
	}
	tail, rest, _ := strings.Cut(after, "\n")
	if tail = strings.TrimSpace(tail); tail != "" && tail[0] != '#' {
		return "", "", errors.New("something follows the value")
	}
	return value, rest, nil
}
