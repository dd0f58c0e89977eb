"""The GraphQL documents of :mod:`pattern_platform.orchestration.graphql.webserver`."""

ASSET = """
query Asset($key: AssetKeyInput!) {
  assetNodeOrError(assetKey: $key) {
    __typename
    ... on AssetNode {
      isMaterializable partitionKeys dependencyKeys { path }
      backfillPolicy { policyType maxPartitionsPerRun }
      repository { name location { name } }
    }
  }
}"""
JOB = """
query Job($params: PipelineSelector!) {
  pipelineOrError(params: $params) {
    __typename
    ... on Pipeline { partitionKeysOrError { partitionKeys } }
    ... on Error { message }
  }
}"""
NAMES = """
query Names {
  repositoriesOrError {
    __typename
    ... on RepositoryConnection {
      nodes { name location { name } jobs { name } assetNodes { assetKey { path } isMaterializable } }
    }
    ... on Error { message }
  }
}"""
RUNS = """
query Runs($filter: RunsFilter!, $limit: Int) {
  runsOrError(filter: $filter, limit: $limit) {
    __typename
    ... on Runs { results { runId status tags { key value } } }
    ... on Error { message }
  }
}"""
LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on Error { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}"""
MADE = """
query Made($run: ID!) {
  runOrError(runId: $run) {
    __typename
    ... on Run {
      assetMaterializations {
        assetKey { path }
        partition
        metadataEntries {
          __typename label
          ... on TextMetadataEntry { text }
          ... on UrlMetadataEntry { url }
          ... on PathMetadataEntry { path }
          ... on MarkdownMetadataEntry { mdStr }
          ... on JsonMetadataEntry { jsonString }
          ... on IntMetadataEntry { intRepr }
          ... on FloatMetadataEntry { floatRepr }
          ... on BoolMetadataEntry { boolValue }
          ... on TimestampMetadataEntry { timestamp }
          ... on TableSchemaMetadataEntry { schema { columns { name type } } }
        }
      }
    }
    ... on Error { message }
  }
}"""
FAILURES = """
query Failures($run: ID!, $after: String) {
  runOrError(runId: $run) {
    __typename
    ... on Run {
      eventConnection(afterCursor: $after) {
        cursor hasMore
        events {
          __typename
          ... on ExecutionStepFailureEvent { stepKey error { ...Said } }
          ... on RunFailureEvent { message error { ...Said } }
        }
      }
    }
    ... on Error { message }
  }
}
fragment Said on PythonError { className message cause { message } }"""
