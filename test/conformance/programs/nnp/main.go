// Command nnp says as whom it runs. Its file is setuid root, so a process that may not gain privileges shows another user than 0.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Println("Effective uid:", os.Geteuid())
}
