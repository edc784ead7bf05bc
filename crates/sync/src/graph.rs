//! Orders steps by what they need, and finds those that need each other.

/// Strongly connected components of a graph, each after all that it needs. `needs[a]` lists what comes before `a`.
/// Iterative: chains of a million renames must not use up the stack.
pub(crate) fn components(needs: &[Vec<usize>]) -> Vec<Vec<usize>> {
    const UNSEEN: usize = usize::MAX;
    let mut order = vec![UNSEEN; needs.len()];
    let mut low = vec![0; needs.len()];
    let mut open = vec![false; needs.len()];
    let mut stack = Vec::new();
    let mut found = Vec::new();
    let mut seen = 0;
    let mut calls = Vec::new();
    for start in 0..needs.len() {
        if order[start] != UNSEEN {
            continue;
        }
        calls.push((start, 0));
        while let Some((at, edge)) = calls.pop() {
            if edge == 0 {
                order[at] = seen;
                low[at] = seen;
                seen += 1;
                stack.push(at);
                open[at] = true;
            }
            match needs[at].get(edge) {
                Some(next) if order[*next] == UNSEEN => calls.extend([(at, edge + 1), (*next, 0)]),
                Some(next) => {
                    if open[*next] {
                        low[at] = low[at].min(order[*next]);
                    }
                    calls.push((at, edge + 1));
                }
                None => {
                    if let Some((caller, _)) = calls.last() {
                        low[*caller] = low[*caller].min(low[at]);
                    }
                    if low[at] == order[at] {
                        let from = stack.iter().rposition(|on_stack| *on_stack == at).unwrap_or(0);
                        let component = stack.split_off(from);
                        component.iter().for_each(|member| open[*member] = false);
                        found.push(component);
                    }
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_comes_first_and_cycles_stay_together() {
        // 0 → 1 → 2 → 0 need each other; 3 needs 0; 4 needs nothing; 2 needs 4.
        let found = components(&[vec![1], vec![2], vec![0, 4], vec![0], vec![]]);
        let sorted: Vec<Vec<usize>> = found
            .into_iter()
            .map(|mut component| {
                component.sort_unstable();
                component
            })
            .collect();
        assert_eq!(sorted, [vec![4], vec![0, 1, 2], vec![3]]);
    }

    #[test]
    fn a_long_chain_does_not_use_up_the_stack() {
        let needs: Vec<Vec<usize>> =
            (0..200_000).map(|at| if at == 0 { vec![] } else { vec![at - 1] }).collect();
        assert_eq!(components(&needs).len(), 200_000);
    }
}
