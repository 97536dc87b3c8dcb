-- name: get_budget
-- Returns a store's ($1) monthly budget and spend, with or without a budget: the money spent, the
-- unpaid part of the reservations of running jobs, the number of waiting jobs, and the mean cost
-- of the store's jobs.
WITH jobs AS (
    SELECT coalesce(sum(greatest(job.estimate_nanousd + job.charged_nanousd - paid.nanousd, 0)), 0)
               ::bigint AS reserved,
           count(*) FILTER (WHERE job.forwarded_at IS NULL) AS waiting
      FROM blog_generations AS job
           LEFT JOIN LATERAL (
               SELECT coalesce(sum(cost_nanousd), 0) AS nanousd FROM blog_steps
                WHERE job_id = job.id
           ) AS paid ON job.forwarded_at IS NOT NULL
     WHERE job.instance_id = $1 AND job.status IN ('PENDING', 'PROCESSING')
)
SELECT $1::text AS store, budget.monthly_nanousd, budget.warn_at,
       coalesce(ledger.spent_nanousd, 0) AS spent_nanousd,
       jobs.reserved AS reserved_nanousd, jobs.waiting,
       coalesce(store.mean_cost_nanousd, 0) AS mean_cost_nanousd
  FROM jobs
       LEFT JOIN store_budgets AS budget ON budget.instance_id = $1
       LEFT JOIN store_spend AS ledger
              ON ledger.instance_id = $1
             AND ledger.month = date_trunc('month', now() AT TIME ZONE 'UTC')::date
       LEFT JOIN stores AS store ON store.instance_id = $1;

-- name: has_store
-- Returns whether a store has ever had a key.
SELECT EXISTS (SELECT FROM api_keys WHERE instance_id = $1);

-- name: set_budget
-- Sets what a store may spend a month ($2), the share at which it is warned ($3), and the operator
-- who sets it ($4). The scheduler may log a warning or a stop again.
INSERT INTO store_budgets (instance_id, monthly_nanousd, warn_at, set_by) VALUES ($1, $2, $3, $4)
ON CONFLICT (instance_id) DO UPDATE
   SET monthly_nanousd = excluded.monthly_nanousd, warn_at = excluded.warn_at,
       set_by = excluded.set_by, changed_at = now(), warned_in = NULL, stopped_in = NULL;

-- name: remove_budget
-- Removes a store's budget; its spending is unlimited.
DELETE FROM store_budgets WHERE instance_id = $1;
