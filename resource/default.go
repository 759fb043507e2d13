package resource

// setDefault sets *p when it has its zero value.
func setDefault[T comparable](p *T, value T) {
	if *p == *new(T) {
		*p = value
	}
}

// setDefaultPtr sets an optional value that was left out.
func setDefaultPtr[T any](p **T, value T) {
	if *p == nil {
		*p = &value
	}
}
